//! Seeds that found something, each under the name of what it was. What was mended has a test of its own, too, where it was
//! mended: a seed means another run once the simulation or what it runs changes.

use crate::run_seed;

/// The name of a log segment, from a daemon that was killed before it was durable, went with the power, and with it what
/// the next daemon had synced below that name.
#[test]
fn names_that_a_killed_daemon_left() {
    run_seed(3247);
}

/// A copy of the batch that had made and opened a file came when later ones were applied, was refused, and closed the file;
/// without a name, it was reaped though its mount had it open.
#[test]
fn a_late_copy_of_a_batch_that_opens_a_file() {
    run_seed(40);
}

/// Made again after a loss of power, a file that was closed already counted as open, and was never reaped.
#[test]
fn a_closed_file_that_is_made_again() {
    run_seed(1496);
}

/// The end of a session that two asked for was answered to the second before it was durable, and the power went.
#[test]
fn the_end_of_a_session_that_is_asked_for_twice() {
    run_seed(3457);
}

/// A copy of the batch that had linked and removed a file said that it had a name again, so it was not reaped.
#[test]
fn a_late_copy_of_a_batch_that_links_a_file() {
    run_seed(1_002_683);
}

/// Closed after the session was taken up again and before its making was repeated, a file stayed open at the server.
#[test]
fn a_file_that_is_closed_before_it_is_made_again() {
    run_seed(1_003_261);
}

/// A delete whose sync failed was seen in the kernel's memory by the next data daemon, confirmed, and went with the power.
#[test]
fn a_delete_that_only_the_kernel_knew() {
    run_seed(970);
}

/// A block of one file of a few bytes was moved into one like it, again and again: of its summary, the part that each has counted as dead.
#[test]
fn a_tiny_file_that_is_moved_for_ever() {
    run_seed(275);
}

/// What had been refused for want of room was done after all, when the mount repeated it after a loss of power.
#[test]
fn what_had_failed_is_done_later() {
    run_seed(290);
}

/// The second registration of a data daemon was answered by the first, before that was durable; the power went, and the daemon with
/// its number was refused for ever.
#[test]
fn a_registration_that_is_repeated() {
    run_seed(3146);
}

/// Each copy of a put that failed was repeated by itself, until a daemon could hold no more of them: in the simulation.
#[test]
fn puts_that_multiply() {
    run_seed(1918);
}

/// An attach came over a connection that had been given up, after the one over the next, and took back what that had said of open files.
#[test]
fn an_attach_that_is_overtaken_by_the_next() {
    run_seed(2520);
}
