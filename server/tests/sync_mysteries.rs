//! One file at several devices, with real daemons, directories and a real server, as people see it: whatever they read and
//! take away must be explained by the model of `holdfast_chaos_tests_mysteries`, which has the paper.
//!
//! `HOLDFAST_MYSTERIES_SEEDS` says how many runs there are, and `HOLDFAST_MYSTERIES_START` the first seed.

mod common;

use common::{
    devices::{Device, World, agree},
    random::{Rng, number},
};
use holdfast_chaos_tests_mysteries::{Explanations, Mystery};
use std::{collections::BTreeSet, fs, io, path::PathBuf};

const DEEDS: usize = 14;

/// A file that people write to as editors do, and what it holds is a number.
struct Seen<'a> {
    device: &'a Device,
}

impl Seen<'_> {
    fn path(&self) -> PathBuf {
        self.device.root.join("a")
    }

    fn value(path: &PathBuf) -> Option<u32> {
        fs::read_to_string(path).ok()?.parse().ok()
    }

    fn read(&self) -> Option<u32> {
        Self::value(&self.path())
    }

    /// Takes what is there away, without that anything could come in between. What it was.
    fn take(&self, number: u32) -> Option<u32> {
        let taken = self.device.root.join(format!("{number}.part"));
        match fs::rename(self.path(), &taken) {
            Ok(()) => {
                let value = Self::value(&taken);
                fs::remove_file(&taken).expect("it is there");
                value
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes where nothing is. Whether that was so.
    fn put(&self, value: u32) -> bool {
        let part = self.device.root.join("new.part");
        fs::write(&part, value.to_string()).expect("it is written");
        let there = fs::hard_link(&part, self.path());
        fs::remove_file(&part).expect("it is there");
        match there {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn deed(
    rng: &mut Rng,
    devices: &mut [Device],
    seen: &mut Explanations,
    written: &mut u32,
) -> Result<(), Mystery> {
    let at = rng.below(devices.len());
    let file = Seen { device: &devices[at] };
    *written += 1;
    match rng.below(8) {
        0 | 1 => seen.read(at, file.read()),
        2 | 3 => match file.take(*written) {
            Some(taken) => seen.write(at, Some(taken), None),
            None => seen.read(at, None),
        },
        4..=6 => {
            if let Some(taken) = file.take(*written) {
                seen.write(at, Some(taken), None)?;
            }
            if file.put(*written) {
                seen.write(at, None, Some(*written))?;
            }
            Ok(())
        }
        _ => {
            // It is away for a while, or comes back.
            match devices[at].daemon {
                Some(_) => devices[at].kill(),
                None => devices[at].start(),
            }
            Ok(())
        }
    }
}

fn run(seed: u64) -> Result<(), Mystery> {
    let world = World::new();
    let mut devices = Vec::from(world.devices(["laptop", "desk", "phone"]));
    let (mut rng, mut seen, mut written) = (Rng::new(seed), Explanations::new(devices.len()), 0);
    for _ in 0..DEEDS {
        deed(&mut rng, &mut devices, &mut seen, &mut written)?;
        // As long as it takes to sync, or less.
        if rng.below(2) == 0 {
            let at = rng.below(devices.len());
            if devices[at].daemon.is_some() {
                devices[at].wait();
            }
        }
    }
    for device in &mut devices {
        if device.daemon.is_none() {
            device.start();
        }
    }
    for _ in 0..devices.len() {
        devices.iter().for_each(Device::wait);
    }
    agree(&Vec::from_iter(&devices));
    for device in &devices {
        let others = device.tree().into_iter().filter(|line| !line.starts_with("a="));
        let beside: BTreeSet<u32> =
            others.filter_map(|line| line.rsplit_once('=').and_then(|(_, text)| text.parse().ok())).collect();
        seen.quiet(Seen { device }.read(), &beside)?;
    }
    Ok(())
}

#[test]
fn what_people_see_of_a_file_can_be_explained() {
    let start = number("HOLDFAST_MYSTERIES_START", 1);
    for seed in start..start + number("HOLDFAST_MYSTERIES_SEEDS", 3) {
        assert_eq!(run(seed), Ok(()), "seed {seed}");
    }
}
