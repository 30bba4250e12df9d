//! `cairn meta`: the whole metadata as text, and back.

use crate::panics;
use anyhow::{Context as _, Result};
use cairn_fsd::meta::dump;
use cairn_fsd::meta::machine::bare::BareDir;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Write all metadata in the directory of a stopped daemon to standard output, a line for each row; nothing in the
    /// directory is changed
    Dump { dir: PathBuf },
    /// Make the directory of a metadata daemon of what 'cairn meta dump' wrote
    Load {
        /// What to read; - for standard input
        file: PathBuf,
        /// Missing or empty
        dir: PathBuf,
    },
}

/// Bytes that are read or written at a time.
const BUFFER: usize = 1 << 20;

/// Writes or reads.
///
/// # Errors
/// If the directory is in use or damaged, the file is cut or changed, or either can't be read or written.
pub fn run(args: &Args) -> Result<ExitCode> {
    panics::quiet_in_redb();
    match args {
        Args::Dump { dir } => write(dir).with_context(|| format!("dump {}", dir.display()))?,
        Args::Load { file, dir } => {
            let rows =
                load(file, dir).with_context(|| format!("load {} into {}", file.display(), dir.display()))?;
            println!("{rows} rows loaded into {}", dir.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path) -> Result<()> {
    let dir = BareDir::open(dir)?;
    // The pages are compared with their checksums first: reading does not do that.
    dir.verify()?;
    let bare = dir.load()?;
    dump::write(&bare, &mut BufWriter::with_capacity(BUFFER, io::stdout().lock()))?;
    Ok(())
}

fn load(file: &Path, dir: &Path) -> Result<u64> {
    let mut input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::with_capacity(BUFFER, io::stdin()))
    } else {
        let file = File::open(file).context("open the dump")?;
        Box::new(BufReader::with_capacity(BUFFER, file))
    };
    Ok(dump::load_dir(&mut *input, dir)?)
}
