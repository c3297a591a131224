//! Devices that are killed again and again while people work on all of them at once, and the server with them: whatever was
//! done in whatever order, all come to agree, with S3 too, and every content that anybody left is somewhere to be found.
//!
//! `HOLDFAST_TORMENT_SEEDS` says how many runs there are, and `HOLDFAST_TORMENT_START` the first seed. What a seed does is
//! the same each time; what comes of it depends on when what is killed is killed.

mod common;

use common::{
    devices::{Device, World, agree},
    random::{Rng, number},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// All that is in a directory, of what is the user's: directories, and files.
fn inside(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut files, mut open) = (vec![root.to_owned()], Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        // It may be moved away by a daemon while it is read.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.symlink_metadata() {
                Ok(found) if found.is_dir() && !path.ends_with(".holdfast") => {
                    directories.push(path.clone());
                    open.push(path);
                }
                Ok(found) if found.is_file() => files.push(path),
                Ok(_) | Err(_) => {}
            }
        }
    }
    directories.sort();
    files.sort();
    (directories, files)
}

/// What people did, and what must be found in the end.
struct People {
    rng: Rng,
    seed: u64,
    written: u64,
    /// Contents that nobody took away again.
    owed: BTreeSet<String>,
    /// What was done, for whoever has to find out why something is lost.
    story: Vec<String>,
}

impl People {
    fn new(seed: u64) -> Self {
        let rng = Rng::new(seed);
        Self { rng, seed, written: 0, owed: BTreeSet::new(), story: Vec::new() }
    }

    fn content(&mut self) -> String {
        self.written += 1;
        format!("content {} of run {}", self.written, self.seed)
    }

    /// Somebody takes a content away by hand, which may have been nowhere else.
    fn took(&mut self, path: &Path) {
        if let Ok(text) = fs::read_to_string(path) {
            self.story.push(format!("{} is taken from {}", text, path.display()));
            self.owed.remove(&text);
        }
    }

    fn write(&mut self, path: &Path) {
        self.took(path);
        let text = self.content();
        // As editors do: it is there whole, or not.
        let part = path.with_extension("part");
        if fs::write(&part, &text).and_then(|()| fs::rename(&part, path)).is_ok() {
            self.story.push(format!("{text} is written to {}", path.display()));
            self.owed.insert(text);
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> std::io::Result<()> {
        let what = fs::read_to_string(from).unwrap_or_else(|_| "a directory".to_owned());
        let done = fs::rename(from, to);
        self.story.push(format!("{what} is moved from {} to {}: {done:?}", from.display(), to.display()));
        done
    }

    /// Somebody does something on a device.
    fn act(&mut self, device: &Device) {
        let (directories, files) = inside(&device.root);
        let name = ["a", "b", "c", "d", "e.txt", "f.txt"][self.rng.below(6)];
        let Some(directory) = self.rng.pick(&directories).cloned() else { return };
        let goal = directory.join(name);
        match self.rng.below(10) {
            0..=2 if !goal.is_dir() => self.write(&goal),
            3 | 4 => {
                if let Some(file) = self.rng.pick(&files).cloned() {
                    self.write(&file);
                }
            }
            5 => drop(fs::create_dir(&goal)),
            6 => {
                if let Some(file) = self.rng.pick(&files).cloned() {
                    self.took(&file);
                    let _gone = fs::remove_file(&file);
                }
            }
            7 => {
                // A file or a directory is moved, perhaps over another file.
                let all: Vec<PathBuf> = files.iter().chain(directories.iter().skip(1)).cloned().collect();
                let Some(from) = self.rng.pick(&all).cloned() else { return };
                if from != goal && !goal.starts_with(&from) && !goal.is_dir() {
                    self.took(&goal);
                    let _moved = self.rename(&from, &goal);
                }
            }
            8 => {
                // Two change places.
                let (one, two) = (self.rng.pick(&files).cloned(), self.rng.pick(&files).cloned());
                if let (Some(one), Some(two)) = (one, two) {
                    let between = device.root.join("between.part");
                    let _swapped = self
                        .rename(&one, &between)
                        .and_then(|()| self.rename(&two, &one))
                        .and_then(|()| self.rename(&between, &two));
                    let left = device.root.join("left");
                    self.took(&left);
                    let _left = self.rename(&between, &left);
                }
            }
            _ => {
                if directory != device.root {
                    inside(&directory).1.iter().for_each(|file| self.took(file));
                    let _gone = fs::remove_dir_all(&directory);
                }
            }
        }
    }
}

/// Every content that is anywhere: in a version of the space's, or where daemons put what they take away.
fn all_contents(world: &World, devices: &[Device]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let client = world.client();
    let (mut key, mut version) = (String::new(), String::new());
    loop {
        let query = [("versions", ""), ("key-marker", &key), ("version-id-marker", &version)];
        let page = client.request("GET", "/docs", &query[..if key.is_empty() { 1 } else { 3 }], b"");
        assert_eq!(page.status, 200, "{}", page.text());
        for one in page.text().split("<Version>").skip(1) {
            let of = |name: &str| {
                let value = one.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once('<'));
                value.expect("it has one").0.to_owned()
            };
            let path = format!("/docs/{}", of("Key"));
            let body = client.request("GET", &path, &[("versionId", &of("VersionId"))], b"");
            assert_eq!(body.status, 200, "{path}");
            found.insert(body.text());
        }
        match (page.elements("NextKeyMarker").pop(), page.elements("NextVersionIdMarker").pop()) {
            (Some(next), Some(id)) => (key, version) = (next, id),
            _ => break,
        }
    }
    for device in devices {
        let (_, files) = inside(&device.root.join(".holdfast/trash"));
        found.extend(files.iter().filter_map(|file| fs::read_to_string(file).ok()));
    }
    found
}

/// The files that S3 lists, as devices show them.
fn by_s3(world: &World) -> Vec<String> {
    let client = world.client();
    let mut files: Vec<String> = client
        .list("docs", "")
        .into_iter()
        .filter(|key| !key.ends_with('/'))
        .map(|key| {
            let path = format!("/docs/{key}");
            format!("{key}={}", client.request("GET", &path, &[], b"").text())
        })
        .collect();
    files.sort();
    files
}

fn run(seed: u64) {
    let mut world = World::new();
    let mut devices = Vec::from(world.devices(["laptop", "desk", "phone"]));
    let mut people = People::new(seed);
    for round in 0..6 {
        for _ in 0..25 {
            let device = people.rng.below(devices.len());
            people.act(&devices[device]);
            match people.rng.below(12) {
                0 => {
                    let hit = people.rng.below(devices.len());
                    people.story.push(format!("{} is killed", devices[hit].root.display()));
                    devices[hit].kill();
                }
                1 => {
                    let hit = people.rng.below(devices.len());
                    if devices[hit].daemon.is_none() {
                        people.story.push(format!("{} is started", devices[hit].root.display()));
                        devices[hit].start();
                    }
                }
                2 if people.rng.below(4) == 0 => {
                    drop(world.server.take());
                    world.start();
                }
                _ => {}
            }
        }
        for device in &mut devices {
            if device.daemon.is_none() {
                device.start();
            }
        }
        if round % 2 == 1 {
            let all: Vec<&Device> = devices.iter().collect();
            settle(&all, seed);
        }
    }
    let files: Vec<String> = devices[0].tree().into_iter().filter(|line| !line.ends_with('/')).collect();
    assert_eq!(by_s3(&world), files, "seed {seed}");
    let found = all_contents(&world, &devices);
    let lost: Vec<&String> = people.owed.difference(&found).collect();
    assert!(lost.is_empty(), "seed {seed}: {lost:?} of {}: {:#?}", people.owed.len(), people.story);
}

/// Waits until all devices agree, and then nothing is left aside, and another look changes nothing.
fn settle(devices: &[&Device], seed: u64) {
    // What one device finds in the end the others hear of.
    for _ in 0..devices.len() {
        devices.iter().for_each(|device| device.wait());
    }
    agree(devices);
    for device in devices {
        let (_, aside) = inside(&device.root.join(".holdfast/aside"));
        assert!(aside.is_empty(), "seed {seed}: {aside:?}");
    }
}

#[test]
fn whoever_is_killed_whenever_all_agree_and_nothing_is_lost() {
    let start = number("HOLDFAST_TORMENT_START", 1);
    for seed in start..start + number("HOLDFAST_TORMENT_SEEDS", 1) {
        run(seed);
    }
}
