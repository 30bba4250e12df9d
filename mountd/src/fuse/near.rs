//! A FUSE thread runs on the processor of who asks, as long as it answers one thread alone, and by itself.
//!
//! Who makes a system call on a mount sleeps until the answer is there, so it and the thread that answers never run at
//! the same time. The scheduler does not know, and wakes each of them on an idle processor: a request costs two
//! wake-ups of a processor that sleeps, where changing over to another thread on the same one would do. What that
//! costs depends on the machine; in a virtual one it was measured to be five times as much, more than all the rest of a
//! 4 KiB write. (FUSE over io_uring has one queue per processor for this reason, but has to be allowed by root for
//! the whole machine.)
//!
//! So each FUSE thread looks now and then where its asker runs, and binds itself to that processor. Whatever can be done
//! at the same time ends this at once: a second asker, a request that waits for tasks and servers, a large copy. It is
//! no more than a hint that can't be given in another way, and everything works without. (Threads begin bound like who begins
//! them, so no FUSE thread may begin one while it answers by itself.)

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use std::cell::RefCell;
use std::fs;

/// Requests in a row before the first look, and between looks: what a look costs (5 µs) shall not be seen, and who moves
/// on is followed within some milliseconds.
const LOOK_EVERY: u32 = 64;
/// What moves more bytes spends its time copying, and a reader copies while the next bytes are read ahead.
const SMALL: usize = 32 << 10;

thread_local! {
    static PLACE: RefCell<Place> = RefCell::default();
}

/// This thread has answered thread `asker` (0: the kernel itself).
pub fn answered(asker: u32) {
    PLACE.with_borrow_mut(|place| place.answered(asker));
}

/// What is being asked is to move this many bytes.
pub fn moves(bytes: usize) {
    if bytes > SMALL {
        others_work();
    }
}

/// While this request is answered, other threads have something to do as well.
pub fn others_work() {
    PLACE.with_borrow_mut(Place::leave);
}

/// Where this thread may run, and for whose sake.
#[derive(Default)]
struct Place {
    streak: Streak,
    bound: Option<Bound>,
}

/// A binding to one processor.
struct Bound {
    cpu: usize,
    /// Where the thread was allowed to run before.
    home: CpuSet,
}

impl Place {
    fn answered(&mut self, asker: u32) {
        match self.streak.note(asker) {
            Step::Stay => {}
            Step::Look => {
                if let Some(cpu) = cpu_of(asker) {
                    self.bind(cpu);
                }
            }
            Step::Leave => self.leave(),
        }
    }

    /// Failures leave the thread where it is: the kernel may refuse any of this (`/proc` hidden, a processor taken away).
    fn bind(&mut self, cpu: usize) {
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let home = match self.bound.take() {
            Some(bound) if allowed == only(bound.cpu) => {
                if bound.cpu == cpu {
                    self.bound = Some(bound);
                    return;
                }
                bound.home
            }
            // Not ours, so somebody else has said meanwhile where this thread may run.
            _ => allowed,
        };
        if home.is_set(cpu) && sched_setaffinity(None, &only(cpu)).is_ok() {
            self.bound = Some(Bound { cpu, home });
        } else if allowed != home {
            let _stays = sched_setaffinity(None, &home);
        }
    }

    fn leave(&mut self) {
        self.streak = Streak::default();
        if let Some(bound) = self.bound.take()
            && sched_getaffinity(None).is_ok_and(|allowed| allowed == only(bound.cpu))
        {
            let _stays = sched_setaffinity(None, &bound.home);
        }
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// The processor that a thread ran on last, if it can be known.
fn cpu_of(thread: u32) -> Option<usize> {
    Pid::from_raw(i32::try_from(thread).ok()?)?;
    // Below `task`, or the kernel adds up the times of all threads of the process.
    parse_cpu(&fs::read_to_string(format!("/proc/{thread}/task/{thread}/stat")).ok()?)
        .filter(|cpu| *cpu < CpuSet::MAX_CPU)
}

/// Field 39 of `/proc/PID/stat`. The second, the name in brackets, may have anything in it.
fn parse_cpu(stat: &str) -> Option<usize> {
    stat.rsplit_once(") ")?.1.split(' ').nth(39 - 3)?.parse().ok()
}

/// What to do about one more request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stay,
    /// See where the asker runs, and go there.
    Look,
    /// Run anywhere.
    Leave,
}

/// Requests of one thread in a row.
#[derive(Default)]
struct Streak {
    asker: u32,
    /// Since the last look.
    length: u32,
    looked: bool,
}

impl Streak {
    fn note(&mut self, asker: u32) -> Step {
        if asker == 0 {
            // Nobody waits for it: a forget, or the release after a close.
            return Step::Stay;
        }
        if asker != self.asker {
            let before = std::mem::replace(self, Streak { asker, length: 1, looked: false });
            return if before.looked { Step::Leave } else { Step::Stay };
        }
        self.length += 1;
        if self.length < LOOK_EVERY {
            return Step::Stay;
        }
        (self.length, self.looked) = (0, true);
        Step::Look
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    /// What is to be done about `requests` of `asker`, but for staying.
    fn steps(streak: &mut Streak, asker: u32, requests: u32) -> Vec<Step> {
        (0..requests).map(|_| streak.note(asker)).filter(|step| *step != Step::Stay).collect()
    }

    #[test]
    fn one_asker_is_followed_and_a_second_one_ends_it() {
        let mut streak = Streak::default();
        assert_eq!(steps(&mut streak, 7, LOOK_EVERY - 1), []);
        assert_eq!(steps(&mut streak, 7, 1 + LOOK_EVERY), [Step::Look, Step::Look]);
        assert_eq!(steps(&mut streak, 8, LOOK_EVERY - 1), [Step::Leave]);
        assert_eq!(steps(&mut streak, 8, 1), [Step::Look]);
    }

    #[test]
    fn those_who_take_turns_are_not_followed() {
        let mut streak = Streak::default();
        for request in 0..10 * LOOK_EVERY {
            assert_eq!(streak.note(1 + request / 8 % 2), Step::Stay);
        }
    }

    #[test]
    fn what_nobody_waits_for_changes_nothing() {
        let mut streak = Streak::default();
        assert_eq!(steps(&mut streak, 7, LOOK_EVERY), [Step::Look]);
        assert_eq!(steps(&mut streak, 0, 3 * LOOK_EVERY), []);
        assert_eq!(steps(&mut streak, 7, LOOK_EVERY), [Step::Look]);
    }

    #[test]
    fn the_processor_is_read_behind_any_name() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(cpu_of(own.try_into().unwrap()).is_some());
        let fields: Vec<String> = (3..=52).map(|field| (field * 10).to_string()).collect();
        assert_eq!(parse_cpu(&format!("12 (a) b (c)) {}", fields.join(" "))), Some(390));
        assert_eq!(parse_cpu("12 (a) 1 2 3"), None);
        assert_eq!(cpu_of(0), None);
    }

    #[test]
    fn a_thread_is_bound_and_let_go_and_what_others_said_stays() {
        std::thread::spawn(|| {
            let home = sched_getaffinity(None).unwrap();
            let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| home.is_set(*cpu)).collect();
            let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
            let mut place = Place::default();
            place.bind(first);
            assert_eq!(sched_getaffinity(None).unwrap(), only(first));
            place.bind(last);
            assert_eq!(sched_getaffinity(None).unwrap(), only(last));
            place.leave();
            assert_eq!(sched_getaffinity(None).unwrap(), home);
            // Somebody moves the bound thread by hand: that is its home from then on.
            place.bind(first);
            sched_setaffinity(None, &only(last)).unwrap();
            place.bind(first);
            place.leave();
            assert_eq!(sched_getaffinity(None).unwrap(), if first == last { home } else { only(last) });
        })
        .join()
        .unwrap();
    }
}
