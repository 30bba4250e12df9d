//! What damaged pages of the metadata touch, as problems of the report.

use super::report::Problem;
use cairn_fsd::meta::losses::{File, Loss, Losses, Named};
use cairn_fsd::meta::tables::Table;
use std::ops::RangeInclusive;

/// Places that a line names.
const PLACES_MAX: usize = 8;

pub fn problems(losses: Losses) -> Vec<Problem> {
    let Losses { rows, nameless, state } = losses;
    let mut problems: Vec<Problem> = rows.into_iter().map(rows_lost).collect();
    if state {
        problems.push(Problem::Tree { what: "tables: the counters and positions can't be read".to_owned() });
    }
    if !nameless.some.is_empty() {
        let Named { some, more } = nameless;
        let count = some.len() as u64 + more;
        let files = some.into_iter().map(|ino| format!("inode {ino}")).collect();
        let what = format!("tables: {count} files and directories have no name that can be read");
        problems.push(Problem::Rows { table: "names", first: None, last: None, what, files, more });
    }
    problems
}

fn rows_lost(loss: Loss) -> Problem {
    let Loss { table, owners, places, complete, files } = loss;
    let (table, owner) = words(table);
    let within = range(&owners);
    let perhaps = if complete { "" } else { ", or some of them" };
    let what =
        format!("tables: {table} {owner} {within} can't be read{perhaps}: damaged at {}", bytes(&places));
    let first = (*owners.start() > 0).then_some(*owners.start());
    let last = (*owners.end() < u64::MAX).then_some(*owners.end());
    Problem::Rows { table, first, last, what, files: files.some.iter().map(file).collect(), more: files.more }
}

/// What the rows of a table are, and what they belong to.
fn words(table: Table) -> (&'static str, &'static str) {
    match table {
        Table::Inode => ("inodes", "with the numbers"),
        Table::Dentry => ("directory entries", "in the directories with the inodes"),
        Table::Extent => ("extents", "of the inodes"),
        Table::Xattr => ("extended attributes", "of the inodes"),
        Table::Lock => ("locks", "on the inodes"),
        Table::LockBySession => ("places of locks", "of the sessions"),
        Table::Block => ("uses of blocks", "in the volumes"),
        Table::Delete => ("blocks to be deleted", "in the volumes"),
        Table::Orphan => ("removed files that are still open", "with the inodes"),
        Table::Node => ("data daemons", "with the numbers"),
        Table::Volume => ("volumes", "with the numbers"),
        Table::Session => ("sessions", "with the numbers"),
    }
}

fn range(owners: &RangeInclusive<u64>) -> String {
    match (*owners.start(), *owners.end()) {
        (0, u64::MAX) => "of all".to_owned(),
        (0, last) => format!("up to {last}"),
        (first, u64::MAX) => format!("from {first} on"),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    }
}

fn bytes(places: &[u64]) -> String {
    let named: Vec<String> = places.iter().take(PLACES_MAX).map(u64::to_string).collect();
    let more = if places.len() > PLACES_MAX { " and more" } else { "" };
    format!("byte {}{more}", named.join(", "))
}

fn file(File { path, names }: &File) -> String {
    let path = path.escape_ascii();
    match names {
        0 => path.to_string(),
        1 => format!("{path}: 1 name"),
        _ => format!("{path}: {names} names"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(table: Table, owners: RangeInclusive<u64>) -> Loss {
        Loss { table, owners, places: vec![4096, 8192], complete: true, files: Named::default() }
    }

    #[test]
    fn a_line_says_what_is_lost() {
        let mut names = loss(Table::Dentry, 5..=9);
        names.files = Named { some: vec![File { path: "/a\nb".into(), names: 3 }], more: 7 };
        let lines = [
            rows_lost(names),
            rows_lost(loss(Table::Extent, 0..=4)),
            rows_lost(Loss { complete: false, ..loss(Table::Inode, 7..=7) }),
            rows_lost(loss(Table::Block, 2..=u64::MAX)),
        ];
        assert_eq!(
            lines.map(|line| line.to_string()),
            [
                "metadata: tables: directory entries in the directories with the inodes 5 to 9 can't be read: damaged at byte \
                 4096, 8192\n          /a\\nb: 3 names\n          and 7 more",
                "metadata: tables: extents of the inodes up to 4 can't be read: damaged at byte 4096, 8192",
                "metadata: tables: inodes with the numbers 7 can't be read, or some of them: damaged at byte 4096, 8192",
                "metadata: tables: uses of blocks in the volumes from 2 on can't be read: damaged at byte 4096, 8192",
            ]
        );
    }

    #[test]
    fn what_is_lost_beside_the_rows_is_said() {
        let nameless = Named { some: vec![cairn_common::ids::Ino(8)], more: 0 };
        let problems = problems(Losses { rows: Vec::new(), nameless, state: true });
        let [state, nameless] = &problems[..] else { panic!("{problems:?}") };
        assert!(state.to_string().contains("counters"), "{state}");
        assert!(
            nameless
                .to_string()
                .ends_with("1 files and directories have no name that can be read\n          inode 8")
        );
    }
}
