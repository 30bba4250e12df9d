//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system lets us. Services are started with one of 1,024 for the sake of programs that
/// use `select`; a daemon that runs into it can't open its own files any more.
pub fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What fails leaves the limit as it was, and the bounds that follow from it are right all the same.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The limit now.
#[must_use]
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_limit_is_the_largest() {
        raise_limit();
        let largest = getrlimit(Resource::Nofile).maximum;
        assert_eq!(getrlimit(Resource::Nofile).current, largest);
        assert!(limit() > 3);
    }
}
