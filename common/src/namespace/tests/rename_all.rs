//! Every rename there is in a small tree, with every set of flags.

use super::super::twin::Twin;
use super::tree_model::Model;
use super::{ROOT, World};
use crate::attr::FileKind;
use crate::ids::Ino;

/// Files with one and two names, empty and full directories, one inside the other.
fn plant(twin: Twin) -> (World, Model, Vec<Ino>) {
    let mut world = World::over(twin);
    let mut model = Model::new();
    let mut make = |parent, text: &str, kind| {
        let ino = world.make(parent, text, kind).unwrap();
        model.create(parent, text, ino, kind).unwrap();
        ino
    };
    let file = make(ROOT, "file", FileKind::File);
    make(ROOT, "empty", FileKind::Dir);
    let full = make(ROOT, "full", FileKind::Dir);
    let inner = make(full, "inner", FileKind::Dir);
    make(full, "file", FileKind::Fifo);
    make(inner, "empty", FileKind::Dir);
    world.link(file, inner, "file").unwrap();
    model.link(file, inner, "file").unwrap();
    (world, model, vec![ROOT, full, inner])
}

fn all_renames(twin: &Twin) -> usize {
    const NAMES: [&str; 5] = ["file", "empty", "full", "inner", "none"];
    let (_, _, dirs) = plant(twin.clone());
    let mut done = 0;
    for (parent, new_parent) in dirs.iter().flat_map(|one| dirs.iter().map(move |two| (*one, *two))) {
        for (text, new_text) in NAMES.iter().flat_map(|one| NAMES.iter().map(move |two| (*one, *two))) {
            for flags in 0..9 {
                let (mut world, mut model, _) = plant(twin.clone());
                let (from, to) = ((parent, text), (new_parent, new_text));
                let result = world.rename(from, to, flags).map(drop);
                let expected = model.rename(from, to, flags, Ino(world.last_ino));
                assert_eq!(result, expected, "{from:?} {to:?} {flags}");
                model.compare(&world);
                done += usize::from(result.is_ok());
            }
        }
    }
    done
}

#[test]
fn every_rename_of_a_small_tree() {
    let done = all_renames(&Twin::new());
    assert!(done > 200, "only {done} renames went through");
}

#[test]
fn every_rename_where_all_names_collide() {
    let done = all_renames(&Twin::colliding(1));
    assert!(done > 200, "only {done} renames went through");
}
