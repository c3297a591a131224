//! One run: load, faults, and what is left.

use crate::{
    Lab,
    history::is_linearizable,
    load::{Load, read},
    nemesis::Fault,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    fmt::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Every fault, with when it began and ended, in seconds.
    pub faults: Vec<(f64, f64, String)>,
    pub operations: u64,
    pub refused: u64,
    pub unknown: u64,
    pub registers: usize,
    pub objects: usize,
    /// Seconds from the last fault's end until the cluster was well.
    pub healed_after: f64,
    pub violations: Vec<String>,
}

impl Report {
    /// The report as text.
    pub fn text(&self, seed: u64) -> String {
        let mut text = format!("# Chaos, seed {seed}\n\n| began | ended | fault |\n|---|---|---|\n");
        for (began, ended, fault) in &self.faults {
            let _infallible = writeln!(text, "| {began:.1} s | {ended:.1} s | {fault} |");
        }
        let _infallible = writeln!(
            text,
            "\n{} operations answered, {} refused (503), {} unknown; {} registers checked for linearizability; {} acknowledged \
             objects read back; well again {:.1} s after the last fault.\n",
            self.operations, self.refused, self.unknown, self.registers, self.objects, self.healed_after
        );
        match self.violations.as_slice() {
            [] => text.push_str("No violation.\n"),
            violations => violations.iter().for_each(|one| {
                let _infallible = writeln!(text, "VIOLATION: {one}");
            }),
        }
        text
    }
}

/// Runs a cluster of `program` in `dir` for so long, and for so many faults at least, which follow from `seed`. With a
/// `previous` version's binary, it begins as a cluster of that, and is upgraded host by host among the faults.
///
/// # Errors
/// Where the lab cannot be built, or a fault could not be done.
pub fn run(
    dir: &Path,
    program: &Path,
    previous: Option<&Path>,
    seed: u64,
    at_least: usize,
    duration: Duration,
) -> Result<Report, String> {
    let mut lab = Lab::up(dir, program, previous)?;
    lab.client(0).create_bucket("registers");
    lab.client(0).create_bucket("objects");
    let mut random = StdRng::seed_from_u64(seed);
    let mut report = Report::default();
    let (load, began) = (Load::start(&lab, seed), Instant::now());
    let result = torment(&mut lab, &load, at_least, duration, &mut random, &mut report);
    let healed = Instant::now();
    let healthy = lab.until_healthy();
    report.healed_after = healed.elapsed().as_secs_f64();
    let record = load.finish(&lab);
    result.and(healthy).map_err(|error| format!("{error}\n{}{}", report.text(seed), lab.logs()))?;
    (report.operations, report.refused, report.unknown) = (record.done, record.refused, record.unknown);
    report.violations = record.violations;
    for (key, history) in &record.histories {
        report.registers += 1;
        if !is_linearizable(history) {
            report.violations.push(format!("{key} is not linearizable: {history:?}"));
        }
    }
    for (number, (key, seed)) in record.objects.iter().enumerate() {
        report.objects += 1;
        match read(&lab.client(number), key, *seed) {
            Ok(true) => {}
            Ok(false) => report.violations.push(format!("{key} cannot be read after all faults have ended")),
            Err(violation) => report.violations.push(violation),
        }
    }
    // Too little traffic, or no fault, is no test.
    if report.operations < 10 * began.elapsed().as_secs() {
        report.violations.push(format!("only {} operations were answered", report.operations));
    }
    if report.faults.is_empty() {
        report.violations.push("no fault landed".to_owned());
    }
    if !report.violations.is_empty() {
        report.violations.push(lab.logs());
    }
    Ok(report)
}

fn torment(
    lab: &mut Lab,
    load: &Load,
    at_least: usize,
    duration: Duration,
    random: &mut StdRng,
    report: &mut Report,
) -> Result<(), String> {
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < duration || number < at_least {
        // Between two upgrades is every kind of fault.
        let old = (0..lab.hosts.len()).any(|at| lab.is_old(at));
        let fault = if old && number % 13 == 0 { Fault::Upgrade } else { Fault::choose(number, lab, random) };
        number += 1;
        if fault.costs_shards() || fault.is_planned() {
            lab.until_healthy()?;
        }
        let start = began.elapsed().as_secs_f64();
        eprintln!("{start:6.1} s  {}", fault.describe(lab));
        load.expect_little(fault.is_planned());
        fault.begin(lab, random).map_err(|error| format!("{}: {error}", fault.describe(lab)))?;
        load.expect_little(false);
        // Some faults outlast the time after which a device is given up.
        thread::park_timeout(Duration::from_millis(random.random_range(2_000..6_000)));
        fault.end(lab)?;
        report.faults.push((start, began.elapsed().as_secs_f64(), fault.describe(lab)));
        // What clients do between the faults shows what the fault left behind.
        let (before, since) = (load.done(), Instant::now());
        while load.done() < before + 50 && since.elapsed() < Duration::from_secs(60) {
            thread::park_timeout(Duration::from_millis(50));
        }
        if load.done() < before + 50 {
            return Err(format!("nothing goes on after: {}", fault.describe(lab)));
        }
    }
    Ok(())
}
