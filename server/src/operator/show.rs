//! Tables for people, JSON for programs.

use super::Operator;
use crate::{admin::model::Status, system::SystemError};
use comfy_table::{Table, presets};
use holdfast_core::ids::HostId;
use serde::Serialize;
use serde_json::Value;
use std::{fmt::Display, io::Write, time::Duration};

/// Prints a line. Whoever reads them may have seen enough.
pub fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Bytes as people read them.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn rows_of<T: Serialize>(rows: &[T]) -> Vec<Value> {
    rows.iter().map(|row| serde_json::to_value(row).unwrap_or_default()).collect()
}

/// Prints a table: a line for each object of `rows`, a column for each of `columns`.
fn table(columns: &[&str], rows: &[Value]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|column| match &row[*column] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            Value::Array(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            Value::Number(_) | Value::Object(_) => row[*column].to_string(),
        }));
    }
    say(format!("{table}"));
}

/// Prints rows as they are.
pub fn show_rows(columns: &[&str], rows: &[Value]) {
    table(columns, rows);
}

/// Makes numbers of bytes and seconds readable.
fn readable(rows: &mut [Value]) {
    for row in rows {
        for field in ["live", "free", "left_bytes", "data"] {
            if let Some(number) = row[field].as_u64() {
                row[field] = bytes(number).into();
            }
        }
        if let Some(rate) = row["bytes_per_s"].as_u64() {
            row["bytes_per_s"] = format!("{}/s", bytes(rate)).into();
        }
        if let Some(seconds) = row["estimate_s"].as_u64() {
            row["estimate_s"] = humantime::format_duration(Duration::from_secs(seconds)).to_string().into();
        }
        if let Some(percent) = row["scrubbed"].as_f64() {
            row["scrubbed"] = format!("{percent} %").into();
        }
    }
}

const DEVICES: [&str; 11] =
    ["device", "host", "place", "duty", "up", "empty", "groups", "leaving", "live", "free", "scrubbed"];
const JOBS: [&str; 6] = ["job", "state", "left", "left_bytes", "bytes_per_s", "estimate_s"];
const GROUPS: [&str; 6] = ["group", "epoch", "devices", "from", "down", "state"];

impl Operator {
    pub fn print(&self, columns: &[&str], mut rows: Vec<Value>) {
        if self.json {
            say(format!("{:#}", Value::Array(rows)));
        } else {
            readable(&mut rows);
            table(columns, &rows);
        }
    }

    pub async fn devices(&self) -> Result<(), SystemError> {
        self.print(&DEVICES, rows_of(&self.cluster.devices().await?));
        Ok(())
    }

    pub async fn nodes(&self) -> Result<(), SystemError> {
        let columns = ["host", "name", "roles", "address", "place", "devices", "state"];
        self.print(&columns, rows_of(&self.cluster.nodes().await?));
        Ok(())
    }

    pub fn pools(&self) -> Result<(), SystemError> {
        let columns = ["pool", "class", "on", "devices", "profile", "domain", "groups", "survives"];
        self.print(&columns, rows_of(&self.cluster.pools()));
        Ok(())
    }

    pub async fn groups(&self) -> Result<(), SystemError> {
        self.print(&GROUPS, rows_of(&self.cluster.groups().await?));
        Ok(())
    }

    pub async fn group(&self, id: u32) -> Result<(), SystemError> {
        let group = self.cluster.group(id).await?;
        if self.json {
            say(format!("{:#}", serde_json::to_value(&group).unwrap_or_default()));
            return Ok(());
        }
        self.print(&GROUPS, rows_of(&[&group.group]));
        say(format!(
            "\n{} packs, {} of them where they were before, {} lack shards; {} alive of {}\n",
            group.packs,
            group.left_behind,
            group.degraded,
            bytes(group.live),
            bytes(group.data)
        ));
        self.print(&["shard", "device", "place", "duty", "up"], rows_of(&group.shards));
        Ok(())
    }

    pub async fn members(&self) -> Result<(), SystemError> {
        let columns = ["host", "name", "address", "member", "leads", "up"];
        self.print(&columns, rows_of(&self.cluster.members().await?));
        Ok(())
    }

    pub async fn jobs(&self) -> Result<(), SystemError> {
        self.print(&JOBS, rows_of(&self.cluster.jobs().await?));
        Ok(())
    }

    /// What the planner would change now, and why.
    pub fn plan(&self) -> Result<(), SystemError> {
        let plan = self.cluster.plan()?;
        if self.json {
            say(format!("{:#}", serde_json::to_value(&plan).unwrap_or_default()));
            return Ok(());
        }
        if plan.changes.is_empty() && plan.stuck.is_empty() {
            say("every placement group is where it should be");
        }
        plan.changes.iter().for_each(|change| say(format!("group {}: {}", change.group, change.reason)));
        plan.stuck.iter().for_each(say);
        Ok(())
    }

    /// The cluster's health in one screen.
    pub async fn status(&self) -> Result<(), SystemError> {
        let status = self.cluster.status().await?;
        if self.json {
            say(format!("{:#}", serde_json::to_value(&status).unwrap_or_default()));
            return Ok(());
        }
        self.summary(&status);
        say("");
        let jobs: Vec<_> = status.jobs.iter().filter(|job| job.state != "idle").collect();
        if !jobs.is_empty() {
            self.print(&JOBS, rows_of(&jobs));
            say("");
        }
        let columns = ["place", "device", "host", "duty", "up", "groups", "leaving", "live", "free"];
        self.print(&columns, rows_of(&status.devices));
        Ok(())
    }

    fn summary(&self, status: &Status) {
        say(format!("cluster   {}", status.cluster));
        match status.problems.as_slice() {
            [] => say("health    well"),
            problems => problems.iter().for_each(|problem| say(format!("health    {problem}"))),
        }
        let leader = self.cluster.topology.host(HostId(status.leader));
        say(format!(
            "members   {} voters, {} up, leader {}{}",
            status.voters.len(),
            status.voters.len() - status.members_down,
            leader.map_or_else(|| status.leader.to_string(), |host| host.name.clone()),
            match status.learners.len() {
                0 => String::new(),
                learners => format!(", {learners} learning"),
            }
        ));
        match self.cluster.pools().first() {
            Some(pool) => {
                say(format!("pool      {} over {}s: survives {}", pool.profile, pool.domain, pool.survives))
            }
            None => say("pool      none yet: make one with \"holdfast pool create\""),
        }
        let groups = &status.groups;
        say(format!(
            "groups    {} clean, {} moving, {} degraded, {} at risk, {} unreadable",
            groups.clean, groups.moving, groups.degraded, groups.at_risk, groups.unreadable
        ));
        match status.worst_spare {
            None => say("packs     all whole"),
            Some(spare) => say(format!(
                "packs     {} lack shards; the worst can lose {spare} more",
                status.degraded_packs
            )),
        }
        say(format!("capacity  {} stored, {} free", bytes(status.live), bytes(status.free)));
        if let Some(line) = &status.durability {
            say(format!("durable   {line}"));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let lag = now.map_or(0, |now| now.as_millis() as u64).saturating_sub(status.archived_until_ms);
        say(match status.archived_until_ms {
            0 => "archive   the metadata is not archived yet".to_owned(),
            _ => format!("archive   the metadata is archived up to {:.1} s ago", lag as f64 / 1000.0),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(5), bytes(2048), bytes(3 << 30)], ["5 B", "2.0 KiB", "3.0 GiB"]);
    }
}
