//! Arguments of `cairn-fsd`.

use crate::config::{DataConfig, DataSettings, MetaConfig, MetaSettings, SettingsError};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The Cairn file system daemon.
#[derive(Debug, Parser)]
#[command(name = "cairn-fsd", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Role,
    /// Log more: -v, -vv, -vvv
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// Hold the tree: names, attributes, where data is, who has what open
    Meta {
        #[command(flatten)]
        settings: MetaSettings,
        /// Settings not given as flags, in TOML; the keys are the names of the flags
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Store blocks
    Data {
        #[command(flatten)]
        settings: DataSettings,
        /// Settings not given as flags, in TOML; the keys are the names of the flags
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// What to run.
#[derive(Clone, Debug)]
pub enum Plan {
    Meta(MetaConfig),
    Data(DataConfig),
}

impl Role {
    /// Flags, file and defaults together.
    pub fn plan(self) -> Result<Plan, SettingsError> {
        match self {
            Role::Meta { settings, config } => {
                Ok(Plan::Meta(settings.over_file(config.as_deref())?.resolve()?))
            }
            Role::Data { settings, config } => {
                Ok(Plan::Data(settings.over_file(config.as_deref())?.resolve()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_lines_of_the_manual_parse() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let meta = parse("cairn-fsd meta --data-dir /srv/m --listen 0.0.0.0:9420 -v").unwrap();
        assert_eq!(meta.verbose, 1);
        assert!(matches!(meta.role.plan().unwrap(), Plan::Meta(_)));
        let data =
            parse("cairn-fsd data --data-dir /srv/d --listen 0.0.0.0:9421 --meta meta1,meta2:9").unwrap();
        let Plan::Data(config) = data.role.plan().unwrap() else { panic!("not the data role") };
        assert_eq!(config.meta.len(), 2);
        assert!(parse("cairn-fsd meta --data-dir /srv/m --listen h:p:q").is_err());
        assert!(parse("cairn-fsd").is_err());
    }
}
