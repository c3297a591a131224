//! What is done to the cluster.

use crate::lab::{Lab, Role};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use std::{fs, os::unix::fs::FileExt, path::PathBuf};

/// A fault. Hosts are named by their place in the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Kill(usize),
    /// Two storage nodes at once, as many as the profile allows.
    KillTwo(usize, usize),
    Pause(usize),
    /// Nobody hears it, and it hears nobody.
    Isolate(usize),
    /// It is heard, and hears nobody.
    Deafen(usize),
    /// The hosts of one rack and of the others do not hear each other; clients are heard by all.
    CutRack(usize),
    /// Packets are lost everywhere, so many of a hundred.
    Lose(u32),
    /// The disk is empty.
    Wipe(usize),
    /// Some bytes of its shards flip.
    Damage(usize),
    /// The disk has no room.
    Fill(usize),
    /// Every process is stopped and started, one after another.
    RollingRestart,
    /// Every other process that runs an older version is upgraded, one after another.
    Upgrade,
}

impl Fault {
    /// Every kind in turn, and where by chance.
    pub fn choose(number: usize, lab: &Lab, random: &mut StdRng) -> Self {
        let mut of = |role| {
            let hosts: Vec<usize> = (0..lab.hosts.len()).filter(|at| lab.hosts[*at].role == role).collect();
            *hosts.choose(random).unwrap_or(&0)
        };
        let (meta, storage, gateway) = (of(Role::Meta), of(Role::Storage), of(Role::Gateway));
        let other = (0..lab.hosts.len()).find(|at| lab.hosts[*at].role == Role::Storage && *at != storage);
        let any = [meta, storage, gateway][random.random_range(0..3)];
        match number % 12 {
            0 => Self::Kill(meta),
            1 => Self::KillTwo(storage, other.unwrap_or(storage)),
            2 => Self::Wipe(storage),
            3 => Self::Isolate(meta),
            4 => Self::Pause(any),
            5 => Self::Lose(random.random_range(5..25)),
            6 => Self::Damage(storage),
            7 => Self::CutRack(random.random_range(1..=3)),
            8 => Self::Deafen(any),
            9 => Self::Fill(storage),
            10 => Self::RollingRestart,
            _ => Self::Kill(any),
        }
    }

    /// Whether the promise holds only where all is well before: shards are lost for good.
    pub fn costs_shards(&self) -> bool {
        matches!(self, Self::Wipe(_) | Self::Damage(_) | Self::Fill(_))
    }

    /// Whether each host goes down on its own and only when all is well, so that clients notice next to nothing.
    pub fn is_planned(&self) -> bool {
        matches!(self, Self::RollingRestart | Self::Upgrade)
    }

    /// How it is told.
    pub fn describe(&self, lab: &Lab) -> String {
        let name = |at: &usize| lab.hosts[*at].name.clone();
        match self {
            Self::Kill(at) => format!("kill -9 {}", name(at)),
            Self::KillTwo(one, two) => format!("kill -9 {} and {}", name(one), name(two)),
            Self::Pause(at) => format!("pause {}", name(at)),
            Self::Isolate(at) => format!("isolate {}", name(at)),
            Self::Deafen(at) => format!("{} hears nobody", name(at)),
            Self::CutRack(rack) => format!("cut off rack {rack}"),
            Self::Lose(percent) => format!("lose {percent} % of all packets"),
            Self::Wipe(at) => format!("wipe the disk of {}", name(at)),
            Self::Damage(at) => format!("flip bytes on the disk of {}", name(at)),
            Self::Fill(at) => format!("fill the disk of {}", name(at)),
            Self::RollingRestart => "restart everything, one after another".to_owned(),
            Self::Upgrade => "upgrade every other old process, one after another".to_owned(),
        }
    }

    /// Does it; what ends with the fault goes on until [`Fault::end`].
    ///
    /// # Errors
    /// Where it could not be done: a fault that does not land tests nothing.
    pub fn begin(&self, lab: &mut Lab, random: &mut StdRng) -> Result<(), String> {
        match self {
            Self::Kill(at) => lab.kill(*at),
            Self::KillTwo(one, two) => [one, two].into_iter().for_each(|at| lab.kill(*at)),
            Self::Pause(at) => lab.signal(*at, "STOP"),
            Self::Isolate(at) => {
                lab.drop_incoming(*at, &["iifname", "!=", "lo", "drop"])?;
                let address = lab.hosts[*at].address.clone();
                for other in (0..lab.hosts.len()).filter(|other| other != at) {
                    lab.drop_incoming(other, &["ip", "saddr", &address, "drop"])?;
                }
            }
            Self::Deafen(at) => {
                for other in (0..lab.hosts.len()).filter(|other| other != at) {
                    let address = lab.hosts[other].address.clone();
                    lab.drop_incoming(*at, &["ip", "saddr", &address, "drop"])?;
                }
            }
            Self::CutRack(rack) => cut(lab, *rack)?,
            Self::Lose(percent) => {
                for at in 0..lab.hosts.len() {
                    let percent = percent.to_string();
                    lab.drop_incoming(at, &["numgen", "random", "mod", "100", "<", &percent, "drop"])?;
                }
            }
            Self::Wipe(at) => {
                let device = lab.device_of(*at).ok_or("the device is not known")?;
                lab.kill(*at);
                empty(&lab.disk(*at))?;
                lab.order(&["device", "replace", &device])?;
                lab.start(*at)?;
            }
            Self::Damage(at) => damage(&lab.disk(*at), random)?,
            Self::Fill(at) => {
                let path = lab.disk(*at).join("filler");
                let file = fs::File::create(path).map_err(|error| error.to_string())?;
                let block = vec![0x5a; 1 << 20];
                // Until there is no room.
                let mut offset = 0;
                while file.write_all_at(&block, offset).is_ok() {
                    offset += block.len() as u64;
                }
            }
            Self::RollingRestart => {
                for at in 0..lab.hosts.len() {
                    lab.restart(at)?;
                }
            }
            Self::Upgrade => {
                let old: Vec<usize> = (0..lab.hosts.len()).filter(|at| lab.is_old(*at)).collect();
                for at in old.into_iter().step_by(2) {
                    lab.upgrade(at)?;
                }
            }
        }
        Ok(())
    }

    /// Ends what goes on.
    ///
    /// # Errors
    /// Where a process cannot be started.
    pub fn end(&self, lab: &mut Lab) -> Result<(), String> {
        match self {
            Self::Kill(at) => lab.start(*at)?,
            Self::KillTwo(one, two) => {
                lab.start(*one)?;
                lab.start(*two)?;
            }
            Self::Pause(at) => lab.signal(*at, "CONT"),
            Self::Fill(at) => {
                fs::remove_file(lab.disk(*at).join("filler")).map_err(|error| error.to_string())?
            }
            Self::Isolate(_) | Self::Deafen(_) | Self::CutRack(_) | Self::Lose(_) => lab.heal_network(),
            Self::Wipe(_) | Self::Damage(_) | Self::RollingRestart | Self::Upgrade => {}
        }
        Ok(())
    }
}

fn cut(lab: &Lab, rack: usize) -> Result<(), String> {
    let hosts = || 0..lab.hosts.len();
    for at in hosts() {
        for other in hosts().filter(|other| (lab.hosts[*other].rack == rack) != (lab.hosts[at].rack == rack))
        {
            let address = lab.hosts[other].address.clone();
            lab.drop_incoming(at, &["ip", "saddr", &address, "drop"])?;
        }
    }
    Ok(())
}

fn empty(dir: &std::path::Path) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|error| error.to_string())?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Flips a byte in each of some pages of the segments.
fn damage(disk: &std::path::Path, random: &mut StdRng) -> Result<(), String> {
    let segments: Vec<PathBuf> = fs::read_dir(disk.join("segments"))
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "toml"))
        .collect();
    let mut flipped = 0;
    for path in segments {
        let file =
            fs::OpenOptions::new().read(true).write(true).open(&path).map_err(|error| error.to_string())?;
        let len = file.metadata().map_err(|error| error.to_string())?.len();
        for _ in 0..16 {
            let at = random.random_range(0..len.max(1));
            let mut byte = [0];
            if file.read_exact_at(&mut byte, at).is_ok() && file.write_all_at(&[byte[0] ^ 0x40], at).is_ok() {
                flipped += 1;
            }
        }
    }
    if flipped > 0 { Ok(()) } else { Err("there was nothing to damage".to_owned()) }
}
