//! What panics print.

/// redb panics on some damage. Whoever called it says in one line what is damaged; the panic's own lines would say
/// nothing to the operator.
pub fn quiet_in_redb() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_redb = panic.location().is_some_and(|at| at.file().contains("/redb-"));
        if !in_redb {
            usual(panic);
        }
    }));
}
