//! What two sides do to one tree, case by case. A tree is written as its paths: `a/` is a directory, `a=x` a file with the
//! bytes `x`, `a=x*` one that may be run, `a>x` a link; before it stands the node's number, of the client's own from 100 on.

use holdfast_client_sync::{
    Base, Conflicts, Content, Id, Kind, Label, Merged, Node, Place, Step, Tree, Trees, merge, steps,
};
use holdfast_core::ids::NodeId;

fn content(text: &str) -> Content {
    let mut bytes = [0; 32];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Content(bytes)
}

fn text(content: &Content) -> String {
    content.0.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

fn tree(text: &str) -> Tree {
    let mut tree = Tree::default();
    for line in text.split_whitespace().collect::<Vec<_>>().chunks(2) {
        let [number, path] = line else { panic!("a number and a path: {line:?}") };
        let number: u64 = number.parse().expect("a number");
        let (path, executable) = path.strip_suffix('*').map_or((*path, false), |path| (path, true));
        let id = if number < 100 { Id::Known(NodeId(number)) } else { Id::Fresh(number) };
        let (path, kind) = if let Some(path) = path.strip_suffix('/') {
            (path, Kind::Directory)
        } else if let Some((path, bytes)) = path.split_once('=') {
            (path, Kind::File { content: content(bytes) })
        } else {
            let (path, target) = path.split_once('>').expect("a file, a directory or a link");
            (path, Kind::Link { content: content(target) })
        };
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = above.split('/').filter(|part| !part.is_empty()).fold(Id::Root, |parent, part| {
            tree.at(&Place { parent, name: part.into() }).expect("parents come first")
        });
        let place = Place { parent, name: name.into() };
        tree.insert(id, Node { place, kind, executable }).expect("a tree");
    }
    tree
}

fn show(tree: &Tree) -> String {
    let mut lines: Vec<String> = tree
        .iter()
        .map(|(id, node)| {
            let mut names: Vec<String> = vec![String::from_utf8_lossy(&node.place.name).into_owned()];
            names.extend(tree.above(id).map(|above| {
                let node = tree.get(above).expect("it is above");
                String::from_utf8_lossy(&node.place.name).into_owned()
            }));
            names.reverse();
            let path = names.join("/");
            match &node.kind {
                Kind::Directory => path + "/",
                Kind::File { content } => {
                    let mark = if node.executable { "*" } else { "" };
                    format!("{path}={}{mark}", text(content))
                }
                Kind::Link { content } => format!("{path}>{}", text(content)),
            }
        })
        .collect();
    lines.sort();
    lines.join(" ")
}

fn trees(synced: &str, local: &str, remote: &str) -> Trees {
    let synced = tree(synced).iter().map(|(id, node)| (id, Base::from(node.clone()))).collect();
    Trees { remote: tree(remote), local: tree(local), synced }
}

/// The merged tree, once both sides have got there by steps.
fn arrived(merged: &Merged) -> String {
    for from in [&merged.trees.local, &merged.trees.remote] {
        let mut now = from.clone();
        for step in steps(from, &merged.tree, &merged.held) {
            assert_eq!(step.carry_out(&mut now), Ok(()), "{step:?}");
        }
        if merged.held.is_empty() {
            assert_eq!(now, merged.tree);
        }
    }
    let held = if merged.held.is_empty() { "" } else { " held" };
    show(&merged.tree) + held
}

fn merged_by(conflicts: Conflicts, synced: &str, local: &str, remote: &str) -> String {
    arrived(&merge(trees(synced, local, remote), conflicts, Label("L"), 1000))
}

fn merged(synced: &str, local: &str, remote: &str) -> String {
    merged_by(Conflicts::Copy, synced, local, remote)
}

#[test]
fn two_names_are_swapped() {
    assert_eq!(merged("1 a=x 2 b=y", "1 b=x 2 a=y", "1 a=x 2 b=y"), "a=y b=x");
    assert_eq!(merged("1 a=x 2 b=y", "1 a=x 2 b=y", "1 b=x 2 a=y"), "a=y b=x");
    // Both swap, and it is swapped once.
    assert_eq!(merged("1 a=x 2 b=y", "1 b=x 2 a=y", "1 b=x 2 a=y"), "a=y b=x");
}

#[test]
fn three_names_go_round() {
    assert_eq!(merged("1 a=x 2 b=y 3 c=z", "1 b=x 2 c=y 3 a=z", "1 a=x 2 b=y 3 c=z"), "a=z b=x c=y");
}

#[test]
fn two_directories_are_moved_into_each_other() {
    // The server's move stands, the other goes back.
    assert_eq!(merged("1 a/ 2 b/", "1 a/ 2 a/b/", "2 b/ 1 b/a/"), "b/ b/a/");
}

#[test]
fn parent_and_child_change_places() {
    assert_eq!(
        merged("1 a/ 2 a/b/ 3 a/b/f=x", "2 b/ 1 b/a/ 3 b/f=x", "1 a/ 2 a/b/ 3 a/b/f=x"),
        "b/ b/a/ b/f=x"
    );
}

#[test]
fn one_file_is_moved_to_two_places() {
    assert_eq!(merged("1 f=x 2 a/ 3 b/", "2 a/ 3 b/ 1 a/f=x", "2 a/ 3 b/ 1 b/f=x"), "a/ b/ b/f=x");
}

#[test]
fn two_files_are_moved_to_one_name() {
    let both = merged("1 a=x 2 b=y", "1 f=x 2 b=y", "1 a=x 2 f=y");
    assert_eq!(both, "f (conflicted copy, L)=x f=y");
}

#[test]
fn a_file_is_moved_and_edited() {
    assert_eq!(merged("1 a=x", "1 b=x", "1 a=y"), "b=y");
    assert_eq!(merged("1 a=x", "1 a=y", "1 b=x"), "b=y");
}

#[test]
fn a_file_leaves_a_directory_that_is_deleted() {
    assert_eq!(merged("1 d/ 2 d/f=x 3 d/g=y", "1 d/ 2 f=x 3 d/g=y", ""), "f=x");
    assert_eq!(merged("1 d/ 2 d/f=x 3 d/g=y", "", "1 d/ 2 f=x 3 d/g=y"), "f=x");
}

#[test]
fn a_file_is_made_in_a_directory_that_is_deleted() {
    assert_eq!(merged("1 d/ 2 d/f=x", "1 d/ 2 d/f=x 100 d/new=z", ""), "d/ d/new=z");
    assert_eq!(merged("1 d/ 2 d/f=x", "", "1 d/ 2 d/f=x 3 d/new=z"), "d/ d/new=z");
}

#[test]
fn a_directory_is_moved_and_deleted() {
    // What went with it stays with it.
    assert_eq!(merged("1 d/ 2 d/f=x", "1 e/ 2 e/f=x", ""), "e/ e/f=x");
    assert_eq!(merged("1 d/ 2 d/f=x", "", "1 e/ 2 e/f=x"), "e/ e/f=x");
    // But of a directory that is only called otherwise, a file that was deleted is.
    assert_eq!(merged("1 d/ 2 d/f=x 3 d/g=y", "1 e/ 2 e/f=x 3 e/g=y", "1 d/ 3 d/g=y"), "e/ e/g=y");
    assert_eq!(merged("1 d/ 2 d/f=x 3 d/g=y", "1 d/ 3 d/g=y", "1 e/ 2 e/f=x 3 e/g=y"), "e/ e/g=y");
}

#[test]
fn a_directory_is_renamed_and_its_old_name_made_again() {
    assert_eq!(
        merged("1 d/ 2 d/f=x", "1 e/ 2 e/f=x 100 d/ 101 d/new=z", "1 d/ 2 d/f=y"),
        "d/ d/new=z e/ e/f=y"
    );
}

#[test]
fn a_file_becomes_a_directory_and_a_directory_a_file() {
    assert_eq!(merged("1 a=x", "100 a/ 101 a/f=y", "1 a=x"), "a/ a/f=y");
    assert_eq!(merged("1 a/ 2 a/f=x", "100 a=y", "1 a/ 2 a/f=x"), "a=y");
    assert_eq!(merged("1 a/ 2 a/f=x", "1 a/ 2 a/f=x", "3 a=y"), "a=y");
    // Meanwhile something was changed in it.
    assert_eq!(
        merged("1 a/ 2 a/f=x", "1 a/ 2 a/f=z", "3 a=y"),
        "a (conflicted copy, L)/ a (conflicted copy, L)/f=z a=y"
    );
    assert_eq!(merged("1 a=x", "1 a>x", "1 a=x"), "a>x");
}

#[test]
fn one_edits_and_the_other_deletes() {
    assert_eq!(merged("1 f=x", "1 f=y", ""), "f=y");
    assert_eq!(merged("1 f=x", "", "1 f=y"), "f=y");
    assert_eq!(merged("1 f=x", "1 f=x", ""), "");
    assert_eq!(merged("1 f=x", "", "1 f=x"), "");
    assert_eq!(merged("1 f=x", "", ""), "");
    // Deep inside a directory that is gone.
    assert_eq!(
        merged("1 a/ 2 a/b/ 3 a/b/f=x 4 a/g=y", "1 a/ 2 a/b/ 3 a/b/f=z 4 a/g=y", ""),
        "a/ a/b/ a/b/f=z"
    );
}

#[test]
fn a_file_is_deleted_and_made_again() {
    assert_eq!(merged("1 f=x", "100 f=x", "1 f=x"), "f=x");
    assert_eq!(merged("1 f=x", "100 f=y", "1 f=z"), "f (conflicted copy, L)=y f=z");
}

#[test]
fn both_edit_a_file() {
    let by = |conflicts| merged_by(conflicts, "1 f.txt=x", "1 f.txt=mine", "1 f.txt=theirs");
    assert_eq!(by(Conflicts::Copy), "f (conflicted copy, L).txt=mine f.txt=theirs");
    assert_eq!(by(Conflicts::LastWriter), "f.txt=mine");
    assert_eq!(by(Conflicts::Manual), "f.txt=theirs held");
    assert_eq!(merged("1 f=x", "1 f=same", "1 f=same"), "f=same");
    // A conflicted copy can come into conflict itself.
    let again =
        merged("1 f=x 2 f(conflicted)=c", "1 f=mine 2 f(conflicted)=d", "1 f=theirs 2 f(conflicted)=e");
    assert_eq!(
        again,
        "f (conflicted copy, L)=mine f(conflicted) (conflicted copy, L)=d f(conflicted)=e f=theirs"
    );
}

#[test]
fn two_make_the_same_name() {
    assert_eq!(merged("", "100 f=x", "1 f=y"), "f (conflicted copy, L)=x f=y");
    assert_eq!(merged("", "100 f=x", "1 f=x"), "f=x");
    assert_eq!(merged("", "100 f>x", "1 f=x"), "f (conflicted copy, L)>x f=x");
    assert_eq!(merged("", "100 f=x", "1 f/"), "f (conflicted copy, L)=x f/");
    // The name of a copy may be taken too.
    let both = merged("", "100 f=x", "1 f=y 2 f(conflicted)=z");
    assert_eq!(both, "f (conflicted copy, L)=x f(conflicted)=z f=y");
}

#[test]
fn a_folder_that_is_not_empty_is_linked() {
    let both = merged(
        "",
        "100 docs/ 101 docs/mine=x 102 docs/both=y 103 docs/sub/ 104 docs/sub/f=p",
        "1 docs/ 2 docs/theirs=z 3 docs/both=y 4 docs/sub/ 5 docs/sub/f=q",
    );
    assert_eq!(
        both,
        "docs/ docs/both=y docs/mine=x docs/sub/ docs/sub/f (conflicted copy, L)=p docs/sub/f=q docs/theirs=z"
    );
}

#[test]
fn nothing_is_known_of_what_was_synced() {
    // The client's database was lost, or the server's metadata is of another day: a union.
    assert_eq!(merged("", "1 a=x 2 b=y", "1 a=x 3 c=z"), "a=x b=y c=z");
    assert_eq!(merged("", "1 a=x", "1 a=y"), "a (conflicted copy, L)=x a=y");
    assert_eq!(merged("", "1 d/ 2 d/f=x", ""), "d/ d/f=x");
}

#[test]
fn two_files_here_of_the_same_bytes_stay_two() {
    assert_eq!(merged("1 a=x", "1 a=x 100 f=x", "1 f=x"), "f (conflicted copy, L)=x f=x");
    assert_eq!(merged("1 a=x", "1 a=x 100 b=x", "1 a=x"), "a=x b=x");
}

#[test]
fn what_was_deleted_does_not_come_back_with_a_directory_that_does() {
    // The directory was made again for `f`, and the client killed before it removed `g`.
    let synced = "1 d/ 2 d/f=x 3 d/g=y";
    let first = merge(trees(synced, "1 d/ 2 d/f=z 3 d/g=y", ""), Conflicts::Copy, Label("L"), 1000);
    let mut between = first.trees.clone();
    between.remote = first.tree.clone();
    between.agree();
    assert_eq!(arrived(&first), "d/ d/f=z");
    assert_eq!(arrived(&merge(between, Conflicts::Copy, Label("L"), 2000)), "d/ d/f=z");
}

#[test]
fn who_may_run_a_file_is_apart_from_what_it_is() {
    assert_eq!(merged("1 f=x", "1 f=x*", "1 f=y"), "f=y*");
    assert_eq!(merged("1 f=x", "1 f=y", "1 f=x*"), "f=y*");
    assert_eq!(merged("1 f=x*", "1 f=x", "1 f=y*"), "f=y");
    // It is no edit: what was deleted stays so.
    assert_eq!(merged("1 f=x", "1 f=x*", ""), "");
    assert_eq!(merged("1 f=x", "", "1 f=x*"), "");
    // And no other file where nothing is known yet.
    assert_eq!(merged("", "100 f=x*", "1 f=x"), "f=x");
    assert_eq!(merged("", "1 f=x*", "1 f=x"), "f=x");
}

#[test]
fn a_file_that_is_held_is_renamed_again_and_again() {
    let mut now = trees("1 f=x", "1 f=mine", "1 f=theirs");
    for name in ["g", "h", "g"] {
        let merged = merge(now, Conflicts::Manual, Label("L"), 1000);
        assert!(merged.held.contains(&Id::Known(NodeId(1))));
        now = merged.trees;
        now.agree();
        let place = Place { parent: Id::Root, name: name.into() };
        now.local.relocate(Id::Known(NodeId(1)), place.clone()).expect("free");
        let merged = merge(now, Conflicts::Manual, Label("L"), 1000);
        assert_eq!(arrived(&merged), format!("{name}=theirs held"));
        now = merged.trees;
        now.remote.relocate(Id::Known(NodeId(1)), place).expect("free");
    }
}

#[test]
fn who_wrote_last_is_not_known_without_a_base() {
    let by = |conflicts| merged_by(conflicts, "", "1 f=mine", "1 f=theirs");
    assert_eq!(by(Conflicts::LastWriter), "f (conflicted copy, L)=mine f=theirs");
    assert_eq!(by(Conflicts::Manual), "f=theirs held");
}

#[test]
fn a_copy_that_is_there_is_not_made_again() {
    // The server's answer was lost, or the database was, or another device made it.
    let there = "1 f=theirs 2 f(conflicted)=mine";
    let there = there.replace("(conflicted)", "\u{1}(conflicted\u{1}copy,\u{1}phone)");
    let with_spaces = |mut tree: Tree| {
        let names: Vec<(Id, Place)> = tree.iter().map(|(id, node)| (id, node.place.clone())).collect();
        for (id, place) in names {
            let name = place.name.iter().map(|byte| if *byte == 1 { b' ' } else { *byte }).collect();
            tree.relocate(id, Place { name, ..place }).expect("free");
        }
        tree
    };
    for (synced, local) in [("1 f=x", "1 f=mine"), ("", "100 f=mine"), ("", "1 f=mine")] {
        let mut trees = trees(synced, local, &there);
        trees.remote = with_spaces(trees.remote);
        let merged = merge(trees, Conflicts::Copy, Label("L"), 1000);
        assert_eq!(arrived(&merged), "f (conflicted copy, phone)=mine f=theirs");
    }
}

#[test]
fn what_leads_into_a_cycle_stays_where_it_was_moved() {
    let synced = "1 a/ 2 b/ 3 c/";
    assert_eq!(merged(synced, "1 a/ 2 a/b/ 3 a/b/c/", "2 b/ 1 b/a/ 3 c/"), "b/ b/a/ b/c/");
}

#[test]
fn nothing_goes_before_all_that_stays_has_its_place() {
    let from = tree("1 d/ 2 d/keep=x 3 d/go=y 4 e=z");
    let to = tree("4 d=z 2 keep=x");
    let way = steps(&from, &to, &Default::default());
    let first_removal = way.iter().position(|step| matches!(step, Step::Remove { .. })).expect("some go");
    assert!(way[first_removal..].iter().all(|step| matches!(step, Step::Remove { .. })), "{way:?}");
}

#[test]
fn what_a_killed_client_left_aside_is_found() {
    let aside = |tree: &mut Tree, id: u64, name: &str| {
        let place = Place { parent: Id::Root, name: format!("\0{}\0{name}", 1).into() };
        tree.relocate(if id < 100 { Id::Known(NodeId(id)) } else { Id::Fresh(id) }, place).expect("free");
    };
    // In the middle of a swap that the server asked for: it goes on.
    let mut now = trees("1 a=x 2 b=y", "1 t=x 2 a=y", "1 b=x 2 a=y");
    aside(&mut now.local, 1, "a");
    assert_eq!(arrived(&merge(now, Conflicts::Copy, Label("L"), 1000)), "a=y b=x");
    // It is no move of the user's: whatever the server does with it counts, a deletion too.
    let mut now = trees("1 a=x", "1 t=x", "");
    aside(&mut now.local, 1, "a");
    assert_eq!(arrived(&merge(now, Conflicts::Copy, Label("L"), 1000)), "");
    // What the server never saw has its name again.
    let mut now = trees("", "100 t=x", "1 a=y");
    aside(&mut now.local, 100, "a");
    assert_eq!(arrived(&merge(now, Conflicts::Copy, Label("L"), 1000)), "a (conflicted copy, L)=x a=y");
    // Another has the place that would be taken first.
    let mut now = trees("1 a=x 2 b=y 3 c=z", "1 a=x 2 b=y 3 t=z", "1 b=x 2 a=y 3 c=z");
    aside(&mut now.local, 3, "c");
    assert_eq!(arrived(&merge(now, Conflicts::Copy, Label("L"), 1000)), "a=y b=x c=z");
}

#[test]
fn empty_directories_are_kept() {
    assert_eq!(merged("", "100 a/ 101 a/b/", "1 c/"), "a/ a/b/ c/");
    assert_eq!(merged("1 a/ 2 a/b/", "1 a/ 2 a/b/", "1 a/"), "a/");
}
