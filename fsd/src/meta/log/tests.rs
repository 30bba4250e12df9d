#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
//! The log on a disk that loses, tears, fills up and fails.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Call, SimDisk};
use cairn_common::ids::ClusterId;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId(77);
const NEVER: Duration = Duration::from_secs(3600);

fn options(segment_bytes: u64, sync_after: Duration) -> LogOptions {
    LogOptions { segment_bytes, sync_after, reserve_bytes: 0, thread: true }
}

/// Recovers with nothing applied; the entries found.
fn read(disk: &SimDisk) -> Result<(Recovered, Vec<Vec<u8>>), RecoverError> {
    read_after(disk, LogIndex(0))
}

fn read_after(disk: &SimDisk, applied: LogIndex) -> Result<(Recovered, Vec<Vec<u8>>), RecoverError> {
    let mut entries = Vec::new();
    let mut next = applied;
    let recovered = recover(disk, CLUSTER, applied, &mut |index, entry| {
        next = next.next();
        assert_eq!(index, next);
        entries.push(entry.to_vec());
        Ok(())
    })?;
    assert_eq!(recovered.last, next);
    Ok((recovered, entries))
}

fn open(disk: &SimDisk, options: LogOptions) -> FileLog {
    let (recovered, _) = read(disk).unwrap();
    FileLog::start(Arc::new(disk.clone()), CLUSTER, recovered, options).unwrap()
}

fn entry(n: u64) -> Vec<u8> {
    format!("entry {n} {}", "x".repeat(usize::try_from(n % 40).unwrap())).into_bytes()
}

fn propose(log: &FileLog, n: u64) -> Result<LogIndex, LogError> {
    log.propose(&[&entry(n)])
}

fn sync(log: &FileLog, through: LogIndex) {
    log.request_sync(through);
    wait(|| *log.durable().borrow() >= through);
}

fn wait(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::yield_now();
    }
}

fn refusal(disk: &SimDisk) -> String {
    match read(disk) {
        Err(error) => error.to_string(),
        Ok((recovered, _)) => panic!("recovered up to {}", recovered.last),
    }
}

fn first_segment() -> String {
    segment::name(LogIndex(1))
}

/// Where record `n` begins, if `entry(1)` to `entry(n)` were written.
fn offset_of(n: u64) -> usize {
    segment::HEADER + (1..n).map(|n| record::stored_len(entry(n).len())).sum::<usize>()
}

/// Entries 1 to 5 of one segment; each synced before the next if `synced`.
fn five(synced: bool) -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    for n in 1..=5 {
        let index = propose(&log, n).unwrap();
        assert_eq!(index, LogIndex(n));
        if synced {
            sync(&log, index);
        }
    }
    log.close();
    disk
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let content = five(true).map(&first_segment()).unwrap().to_vec();
    let (begin, end) = (offset_of(5), offset_of(6));
    for cut in begin..=end {
        for filler in [0, 0xa5] {
            let mut torn = content.clone();
            torn[cut..end].fill(filler);
            // Padding carries nothing.
            let payload_end = begin + record::HEADER + entry(5).len();
            let whole = torn[..payload_end] == content[..payload_end];
            let disk = SimDisk::new();
            let file = disk.create(&first_segment()).unwrap();
            crate::disk::write_all_at(&*file, &[&torn], 0).unwrap();
            let (recovered, entries) = read(&disk).unwrap();
            assert_eq!(entries.len(), if whole { 5 } else { 4 }, "cut at {cut}, filled with {filler}");
            // It goes on behind the cut, and nothing of what was cut comes back.
            let log =
                FileLog::start(Arc::new(disk.clone()), CLUSTER, recovered, options(4096, NEVER)).unwrap();
            propose(&log, 9).unwrap();
            log.close();
            let (_, entries) = read(&disk).unwrap();
            assert_eq!(entries.last().unwrap(), &entry(9));
            assert_eq!(entries.len(), if whole { 6 } else { 5 });
        }
    }
}

#[test]
fn damage_below_a_synced_mark_is_refused_by_name_and_place() {
    for n in 1..=3 {
        let disk = five(true);
        disk.corrupt(&first_segment(), offset_of(n) + record::HEADER, b"?");
        let line = refusal(&disk);
        assert!(line.contains(&first_segment()), "{line}");
        assert!(line.contains(&format!("byte {} (entry {n})", offset_of(n))), "{line}");
    }
}

#[test]
fn damage_in_what_was_never_synced_is_a_torn_tail() {
    for n in 1..=5 {
        let disk = five(false);
        disk.corrupt(&first_segment(), offset_of(n) + 2, b"?!");
        let (recovered, entries) = read(&disk).unwrap();
        assert_eq!(entries.len() as u64, n - 1);
        assert!(recovered.cut > 0);
    }
}

/// Entries 1 to 5 of one segment, durable, with a mark behind them.
fn marked() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    for n in 1..=5 {
        propose(&log, n).unwrap();
    }
    log.close();
    log.mark_end();
    disk
}

fn content(disk: &SimDisk) -> Vec<u8> {
    disk.map(&first_segment()).unwrap().to_vec()
}

/// A disk with one segment.
fn disk_with(segment: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.create(&first_segment()).unwrap();
    crate::disk::write_all_at(&*file, &[segment], 0).unwrap();
    disk
}

#[test]
fn damage_to_the_last_synced_entry_is_refused_once_the_end_is_marked() {
    let disk = marked();
    let whole = content(&disk);
    let begin = offset_of(5);
    for at in begin..begin + record::HEADER + entry(5).len() {
        disk.corrupt(&first_segment(), at, &[whole[at] ^ 1 << (at % 8)]);
        let line = refusal(&disk);
        assert!(line.contains(&first_segment()), "byte {at}: {line}");
        assert!(line.contains(&format!("byte {begin} (entry 5)")), "byte {at}: {line}");
        assert!(line.contains("the mark behind it"), "byte {at}: {line}");
        disk.corrupt(&first_segment(), at, &whole[at..=at]);
    }
    assert_eq!(read(&disk).unwrap().1.len(), 5);
}

#[test]
fn a_mark_is_no_entry_and_the_next_entry_is_written_over_it() {
    let disk = marked();
    let whole = content(&disk);
    let end = offset_of(6);
    assert!(whole[end..end + record::MARK].iter().any(|byte| *byte != 0));
    let (recovered, entries) = read(&disk).unwrap();
    assert_eq!((recovered.cut, entries.len()), (0, 5), "nothing is cut, nothing is visited");
    assert!(content(&disk) == whole, "nothing is changed");
    let log = FileLog::start(Arc::new(disk.clone()), CLUSTER, recovered, options(4096, NEVER)).unwrap();
    assert_eq!(propose(&log, 6).unwrap(), LogIndex(6));
    log.close();
    // The same bytes as if there had never been a mark: who reads them needs to know nothing of it.
    let unmarked = five(false);
    let nonce = segment::Header::decode(&whole).unwrap().0.nonce;
    let mut expected = Vec::new();
    let chain = u32::from_be_bytes(whole[offset_of(5)..][..4].try_into().unwrap());
    record::encode(&mut expected, nonce, LogIndex(6), LogIndex(5), chain, &entry(6));
    assert!(content(&disk)[end..end + expected.len()] == expected);
    assert!(content(&disk)[end + expected.len()..] == content(&unmarked)[end + expected.len()..]);
    assert_eq!(read(&disk).unwrap().1.len(), 6);
}

#[test]
fn the_end_is_marked_only_when_all_is_durable_and_once() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    let end = |n: u64| content(&disk)[offset_of(n)..offset_of(n) + record::MARK].to_vec();
    propose(&log, 1).unwrap();
    log.mark_end();
    assert_eq!(end(2), [0; record::MARK], "entry 1 is not durable");
    sync(&log, LogIndex(1));
    log.mark_end();
    assert_ne!(end(2), [0; record::MARK]);
    // It stands there: nothing is written again.
    disk.fail_always(Call::Write, 0, io::ErrorKind::Other);
    log.mark_end();
    disk.heal();
    assert_eq!(*log.failure().borrow(), None);
    propose(&log, 2).unwrap();
    sync(&log, LogIndex(2));
    disk.fail_once(Call::Write, 0, io::ErrorKind::StorageFull);
    log.mark_end();
    assert_eq!((end(3), log.failure().borrow().clone()), (vec![0; record::MARK], None));
    disk.fail_once(Call::Write, 0, io::ErrorKind::Other);
    log.mark_end();
    assert!(log.failure().borrow().as_ref().unwrap().contains("mark the end"), "as any other write");
}

#[test]
fn a_log_that_rests_marks_its_end() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, Duration::from_millis(5)));
    let is_marked = |n: u64| content(&disk)[offset_of(n)..][..record::MARK] != [0; record::MARK];
    for n in 1..=3 {
        propose(&log, n).unwrap();
        wait(|| is_marked(n + 1));
        assert_eq!(*log.durable().borrow(), LogIndex(n));
    }
    // Also if somebody else has synced.
    propose(&log, 4).unwrap();
    if let Some(turn) = log.begin_sync() {
        turn.sync();
    }
    wait(|| is_marked(5));
    disk.corrupt(&first_segment(), offset_of(4) + record::HEADER, b"?");
    assert!(refusal(&disk).contains("(entry 4)"));
}

/// Any part of what is written over a mark may be there after a loss of power, and any part of what comes behind.
#[test]
fn what_is_torn_over_a_mark_is_cut() {
    let disk = marked();
    let old = content(&disk);
    let log = open(&disk, options(4096, NEVER));
    (6..=7).for_each(|n| assert_eq!(propose(&log, n).unwrap(), LogIndex(n)));
    let new = content(&disk);
    let (begin, middle, end) = (offset_of(6), offset_of(7), offset_of(8));
    for cut in begin..=end {
        let mixed =
            [[&new[..cut], &old[cut..]].concat(), [&old[..cut], &new[cut..end], &old[end..]].concat()];
        for (torn, is_front) in mixed.iter().zip([true, false]) {
            let disk = disk_with(torn);
            let (recovered, entries) = read(&disk).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            let is_whole = |until: usize| usize::from(torn[..until] == new[..until]);
            let whole = 5 + is_whole(middle) + is_whole(end);
            // Padding carries nothing.
            assert!([whole, whole + 1].contains(&entries.len()), "cut at {cut}, {is_front}");
            let log =
                FileLog::start(Arc::new(disk.clone()), CLUSTER, recovered, options(4096, NEVER)).unwrap();
            propose(&log, 9).unwrap();
            log.close();
            let (again, more) = read(&disk).unwrap();
            assert_eq!((again.cut, more.len()), (0, entries.len() + 1), "cut at {cut}, {is_front}");
        }
    }
}

/// A mark that comes back: the disk has lost the write over it.
#[test]
fn synced_entries_behind_a_mark_are_not_cut() {
    let disk = marked();
    let mark = content(&disk)[offset_of(6)..offset_of(6) + record::MARK].to_vec();
    let log = open(&disk, options(4096, NEVER));
    for n in 6..=7 {
        propose(&log, n).unwrap();
        sync(&log, LogIndex(n));
    }
    log.close();
    disk.corrupt(&first_segment(), offset_of(6), &mark);
    let line = refusal(&disk);
    assert!(line.contains(&format!("byte {} (entry 6): entry 7 behind it", offset_of(6))), "{line}");
}

#[test]
fn entries_that_a_full_disk_refuses_leave_the_mark() {
    let disk = marked();
    let log = open(&disk, options(4096, NEVER));
    propose(&log, 6).unwrap();
    log.close();
    log.mark_end();
    disk.fail_once(Call::Write, 0, io::ErrorKind::StorageFull);
    assert!(matches!(propose(&log, 7), Err(LogError::NoSpace)));
    disk.corrupt(&first_segment(), offset_of(6) + 1, b"?");
    assert!(refusal(&disk).contains("(entry 6): the mark behind it"));
}

/// One bit of each byte of each segment, also behind the last record: all entries are there, or the file is named.
#[test]
fn no_flipped_bit_loses_an_entry_silently() {
    let disk = SimDisk::new();
    let log = open(&disk, options(512, NEVER));
    let all: Vec<Vec<u8>> = (1..=40).map(entry).collect();
    for (n, entry) in (1..).zip(&all) {
        assert_eq!(log.propose(&[entry]).unwrap(), LogIndex(n));
    }
    log.close();
    log.mark_end();
    // Makes the mark durable.
    assert_eq!(read(&disk).unwrap().1, all);
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with("log-"));
    assert!(names.len() > 3);
    let (mut same, mut refused) = (0, 0);
    for name in &names {
        let whole = disk.map(name).unwrap().to_vec();
        for (at, byte) in whole.iter().enumerate() {
            // A copy: a recovery changes what it takes for torn.
            let disk = disk.power_cycle(0);
            disk.corrupt(name, at, &[byte ^ 1 << (at % 8)]);
            match read(&disk) {
                Ok((_, entries)) => {
                    same += 1;
                    assert!(entries == all, "{name}, byte {at}: {} entries", entries.len());
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(name), "{name}, byte {at}: {error}");
                }
            }
        }
    }
    assert!(same > 100 && refused > 1000, "{same} {refused}");
}

/// Whoever may set an extended attribute can put any bytes into an entry.
#[test]
fn records_forged_in_a_payload_do_not_stop_recovery() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    propose(&log, 1).unwrap();
    let mut forged = Vec::new();
    let index = LogIndex(u64::MAX);
    let everything_synced = LogIndex(u64::MAX - 1);
    for nonce in [0, 1, u64::MAX] {
        record::encode(&mut forged, nonce, index, everything_synced, 0, b"forged");
    }
    log.propose(&[&forged]).unwrap();
    log.close();
    disk.corrupt(&first_segment(), offset_of(2), b"torn");
    let (recovered, entries) = read(&disk).unwrap();
    assert_eq!(entries, [entry(1)]);
    assert!(recovered.cut > 0);
}

#[test]
fn segments_follow_each_other() {
    let disk = SimDisk::new();
    let log = open(&disk, options(512, NEVER));
    (1..=60).for_each(|n| assert_eq!(propose(&log, n).unwrap(), LogIndex(n)));
    // A group above a segment's size gets a segment of its own size.
    let big = vec![7; 2000];
    log.propose(&[&big, &big]).unwrap();
    log.close();
    let segments = || disk.list().unwrap().len();
    assert!(segments() > 5, "{}", segments());
    let (_, entries) = read(&disk).unwrap();
    assert_eq!(entries.len(), 62);
    assert!(entries.iter().zip(1..=60).all(|(found, n)| *found == entry(n)));

    let all = segments();
    log.forget(LogIndex(30)).unwrap();
    assert!(segments() < all);
    assert!(read(&disk).is_err(), "the beginning is gone");
    assert_eq!(read_after(&disk, LogIndex(30)).unwrap().1.len(), 32);
    log.forget(LogIndex(62)).unwrap();
    assert_eq!(segments(), 1);
    assert_eq!(read_after(&disk, LogIndex(62)).unwrap().0.last, LogIndex(62));
    assert!(refusal_after(&disk, LogIndex(63)).contains("synced entries are lost"));
}

#[test]
fn an_empty_segment_that_is_too_small_is_replaced() {
    let disk = SimDisk::new();
    let log = open(&disk, options(512, NEVER));
    let big = vec![7; 2000];
    log.propose(&[&big]).unwrap();
    assert_eq!(disk.list().unwrap(), [first_segment()]);
    log.forget(LogIndex(1)).unwrap();
    log.close();
    assert_eq!(read(&disk).unwrap().1, [big]);
}

/// Two segments, the first record of the second one torn; and its index.
fn torn_behind_a_roll() -> (SimDisk, u64) {
    let disk = SimDisk::new();
    let log = open(&disk, options(512, NEVER));
    let first = (1..).find(|n| propose(&log, *n).is_ok() && disk.list().unwrap().len() == 2).unwrap();
    log.close();
    disk.corrupt(&segment::name(LogIndex(first)), segment::HEADER + 2, b"?!");
    (disk, first)
}

#[test]
fn a_recovery_killed_at_any_change_leaves_a_log_that_goes_on() {
    let (torn, first) = torn_behind_a_roll();
    for changes in 0.. {
        let disk = torn.power_cycle(changes);
        disk.power_off_after(changes);
        let done = read(&disk).is_ok();
        let disk = disk.kill();
        let log = open(&disk, options(512, NEVER));
        (first..first + 40).for_each(|n| assert_eq!(propose(&log, n).unwrap(), LogIndex(n)));
        log.close();
        let (_, entries) = read(&disk).unwrap_or_else(|error| panic!("killed at {changes}: {error}"));
        assert!(entries.iter().zip(1..).all(|(found, n)| *found == entry(n)));
        log.forget(LogIndex(first + 20)).unwrap();
        assert_eq!(read_after(&disk, LogIndex(first + 20)).unwrap().1.len(), 19, "killed at {changes}");
        if done {
            break;
        }
    }
}

#[test]
fn what_was_cut_stays_away_when_the_power_goes() {
    let (torn, _) = torn_behind_a_roll();
    for seed in 0..16 {
        let disk = torn.power_cycle(seed);
        let (recovered, entries) = read(&disk).unwrap();
        assert!(recovered.cut > 0);
        let (again, same) = read(&disk.power_cycle(seed)).unwrap();
        assert_eq!((again.cut, same), (0, entries), "seed {seed}");
    }
}

fn refusal_after(disk: &SimDisk, applied: LogIndex) -> String {
    read_after(disk, applied).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let many = || {
        let disk = SimDisk::new();
        let log = open(&disk, options(512, NEVER));
        (1..=40).for_each(|n| assert_eq!(propose(&log, n).unwrap(), LogIndex(n)));
        log.close();
        let mut names = disk.list().unwrap();
        names.sort();
        (disk, names)
    };
    let (disk, names) = many();
    disk.remove(&names[1]).unwrap();
    assert!(refusal(&disk).contains("is damaged"), "a hole in the middle");
    let (disk, names) = many();
    disk.remove(&names[0]).unwrap();
    assert!(refusal(&disk).contains("is missing"));
    let (disk, names) = many();
    disk.corrupt(&names[1], segment::HEADER + 9, b"?");
    assert!(refusal(&disk).contains(&names[1]), "nothing is torn in a segment that has a successor");
    let (disk, names) = many();
    disk.corrupt(&names[2], 20, b"?");
    assert!(refusal(&disk).contains("damaged header"));
    let (disk, _) = many();
    let other = recover(&disk, ClusterId(1), LogIndex(0), &mut |_, _| Ok(())).map(|_| ()).unwrap_err();
    assert!(other.to_string().contains("belongs to cluster"), "{other}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_later() {
    // A smaller segment is tried too; what a failed write has left is written over.
    for (call, fail) in [
        (Call::Allocate, SimDisk::fail_always as fn(&SimDisk, Call, u64, io::ErrorKind)),
        (Call::Write, SimDisk::fail_once),
    ] {
        let disk = SimDisk::new();
        let log = open(&disk, options(512, NEVER));
        let mut taken = Vec::new();
        let mut refused = 0;
        for n in 1..=60 {
            if n % 7 == 0 {
                fail(&disk, call, 0, io::ErrorKind::StorageFull);
            }
            match propose(&log, n) {
                Ok(_) => taken.push(entry(n)),
                Err(LogError::NoSpace) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            disk.heal();
        }
        assert!(refused > 0);
        assert_eq!(*log.failure().borrow(), None);
        assert_eq!(read(&disk).unwrap().1, taken, "{call:?}");
        log.close();
    }
}

#[test]
fn a_nearly_full_disk_gets_small_segments() {
    let disk = SimDisk::new();
    let log = open(&disk, LogOptions { reserve_bytes: 4096, ..options(4096, NEVER) });
    let length = |first: u64| disk.map(&segment::name(LogIndex(first))).unwrap().len();
    assert_eq!(length(1), 4096);
    let large = vec![1; 3000];
    log.propose(&[&large]).unwrap();
    // Room for a segment, but then less than the reserve would be left.
    disk.set_available(8000);
    log.propose(&[&large]).unwrap();
    assert_eq!(length(2), segment::HEADER + record::stored_len(3000) + record::MARK + 64);
    // The reserve is for what makes room.
    disk.set_available(3200);
    log.propose(&[&large]).unwrap();
    disk.set_available(3000);
    assert!(matches!(log.propose(&[&large]), Err(LogError::NoSpace)));
    log.propose(&[&[1; 1000]]).unwrap();
    // Space that is not there although the disk says so.
    disk.set_available(1 << 20);
    disk.fail_once(Call::Allocate, 0, io::ErrorKind::StorageFull);
    log.propose(&[&large]).unwrap();
    assert!(length(5) < 4096);
    log.propose(&[&large]).unwrap();
    assert_eq!(length(6), 4096);
    log.close();
    assert_eq!(read(&disk).unwrap().1.len(), 6);
}

#[test]
fn too_large_and_empty_entries_are_refused() {
    let disk = SimDisk::new();
    let log = open(&disk, options(512, NEVER));
    let large = vec![0; PAYLOAD_MAX + 1];
    assert!(matches!(log.propose(&[b"a", &large]), Err(LogError::TooLarge(_))));
    assert!(matches!(log.propose(&[b"a", b""]), Err(LogError::TooLarge(0))));
    assert_eq!(log.propose(&[b"a"]).unwrap(), LogIndex(1));
}

#[test]
fn syncs_wait_for_a_request_or_the_deadline() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    propose(&log, 1).unwrap();
    assert_eq!(*log.durable().borrow(), LogIndex(0));
    assert_eq!(log.committed(), LogIndex(1), "decided at once: a killed process loses nothing");
    sync(&log, LogIndex(1));
    drop(log);

    let log = open(&disk, options(4096, Duration::from_millis(5)));
    assert_eq!(*log.durable().borrow(), LogIndex(1));
    for n in 2..=4 {
        propose(&log, n).unwrap();
        wait(|| *log.durable().borrow() == LogIndex(n));
    }
}

#[test]
fn one_at_a_time_syncs_and_the_rest_is_covered_by_the_next() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    propose(&log, 1).unwrap();
    let turn = log.begin_sync().unwrap();
    assert!(log.begin_sync().is_none());
    propose(&log, 2).unwrap();
    log.request_sync(LogIndex(2));
    assert_eq!(*log.durable().borrow(), LogIndex(0));
    turn.sync();
    assert!(*log.durable().borrow() >= LogIndex(1));
    wait(|| *log.durable().borrow() == LogIndex(2));
    // A turn that is not used passes on.
    propose(&log, 3).unwrap();
    wait(|| log.begin_sync().is_some());
    sync(&log, LogIndex(3));
}

#[test]
fn a_failed_sync_or_append_ends_the_log() {
    for call in [Call::Sync, Call::Write] {
        let disk = SimDisk::new();
        let log = open(&disk, options(4096, NEVER));
        propose(&log, 1).unwrap();
        sync(&log, LogIndex(1));
        disk.fail_once(call, 0, io::ErrorKind::Other);
        let second = propose(&log, 2);
        log.request_sync(LogIndex(2));
        wait(|| log.failure().borrow().is_some());
        assert_eq!(second.is_err(), call == Call::Write);
        // The disk works again, but what the kernel dropped meanwhile nobody knows.
        assert!(matches!(propose(&log, 3), Err(LogError::Failed { .. })));
        assert_eq!(*log.durable().borrow(), LogIndex(1));
        log.close();
    }
}

#[test]
fn what_a_failed_sync_lost_is_not_found_by_the_restart() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    propose(&log, 1).unwrap();
    sync(&log, LogIndex(1));
    propose(&log, 2).unwrap();
    disk.fail_once(Call::Sync, 0, io::ErrorKind::Other);
    log.request_sync(LogIndex(2));
    wait(|| log.failure().borrow().is_some());
    // The kernel still shows the entry, though it is nowhere else.
    let after = disk.kill();
    assert_eq!(read(&after).unwrap().1, [entry(1)]);
    assert_eq!(read(&after.power_cycle(1)).unwrap().1, [entry(1)]);
}

#[test]
fn what_a_killed_process_left_is_made_durable_by_the_restart() {
    let disk = SimDisk::new();
    let log = open(&disk, options(4096, NEVER));
    (1..=5).for_each(|n| assert_eq!(propose(&log, n).unwrap(), LogIndex(n)));
    let after = disk.kill();
    assert_eq!(read(&after).unwrap().1.len(), 5);
    for seed in 0..8 {
        assert_eq!(read(&after.power_cycle(seed)).unwrap().1.len(), 5);
    }
}

/// Among others killed after the rename that gives a new segment its name, and before that is durable.
#[test]
fn a_name_that_a_killed_process_left_is_made_durable_by_the_restart() {
    for calls in 0..4 {
        let disk = SimDisk::new();
        let log = open(&disk, options(512, NEVER));
        disk.fail_once(Call::Name, calls, io::ErrorKind::Other);
        let mut n = 0;
        while propose(&log, n + 1).is_ok() {
            n += 1;
        }
        let killed = disk.kill();
        drop(log);
        let log = open(&killed, options(512, NEVER));
        let last = propose(&log, n + 1).unwrap();
        sync(&log, last);
        for seed in 0..16 {
            let found = read(&killed.power_cycle(seed)).unwrap().1.len();
            assert_eq!(found as u64, n + 1, "{calls} calls, seed {seed}");
        }
    }
}

#[test]
fn power_loss_at_any_change_keeps_what_was_durable() {
    for seed in 0..6 {
        for changes in 0.. {
            let disk = SimDisk::new();
            let log = open(&disk, options(512, NEVER));
            disk.power_off_after(changes);
            let mut done = 0;
            for n in 1..=24 {
                if propose(&log, n).is_err() {
                    break;
                }
                done = n;
                if n % 4 == 0 {
                    log.request_sync(LogIndex(n));
                    wait(|| *log.durable().borrow() >= LogIndex(n) || log.failure().borrow().is_some());
                }
                if n % 8 >= 4 {
                    // Stands behind what is durable, or does nothing.
                    log.mark_end();
                }
            }
            let durable = log.durable().borrow().0;
            let after = disk.power_cycle(seed);
            let (recovered, entries) = read(&after).unwrap_or_else(|error| {
                panic!("seed {seed}, power off at {changes}, durable {durable}: {error}")
            });
            assert!(recovered.last.0 >= durable, "seed {seed}, power off at {changes}");
            // An append that failed may have reached the disk all the same.
            assert!(recovered.last.0 <= done + 1);
            assert!(entries.iter().zip(1..).all(|(found, n)| *found == entry(n)));
            // What was cut stays away; new entries go on.
            let log =
                FileLog::start(Arc::new(after.clone()), CLUSTER, recovered, options(512, NEVER)).unwrap();
            propose(&log, 99).unwrap();
            log.close();
            assert_eq!(read(&after).unwrap().1.len(), entries.len() + 1);
            if done == 24 {
                break;
            }
        }
    }
}
