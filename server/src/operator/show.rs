//! Tables for people, JSON for programs.

use super::Operator;
use crate::system::SystemError;
use comfy_table::{Table, presets};
use holdfast_core::ids::{DeviceId, HostId};
use holdfast_meta_raft_machine::{ask::Topology, records::Duty};
use holdfast_proto::{DeviceHealth, HealthNow};
use serde_json::{Value, json};
use std::{fmt::Display, io::Write, time::Duration};

/// Prints a line. Whoever reads them may have seen enough.
pub fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// A host or device that was silent for so long is down.
const DOWN: Duration = Duration::from_secs(5);

/// What was last heard of a device.
pub fn heard(health: &HealthNow, id: DeviceId) -> Option<&DeviceHealth> {
    health.devices.iter().find(|device| device.beat.as_ref().is_some_and(|beat| beat.device == id.0))
}

/// Whether a device was heard of a moment ago.
pub fn is_up(health: &HealthNow, id: DeviceId) -> bool {
    heard(health, id).is_some_and(|device| Duration::from_millis(device.silent_ms) < DOWN)
}

/// Milliseconds since a host was heard of.
fn silent_ms(health: &HealthNow, id: HostId) -> Option<u64> {
    health.hosts.iter().find(|host| host.host == id.0)?.silent_ms
}

/// Whether a host was heard of a moment ago.
pub fn is_host_up(health: &HealthNow, id: HostId) -> bool {
    silent_ms(health, id).is_some_and(|ms| Duration::from_millis(ms) < DOWN)
}

pub fn duty_name(duty: Duty) -> &'static str {
    match duty {
        Duty::Serving => "serving",
        Duty::Draining => "draining",
        Duty::Out => "out",
        Duty::Removed => "removed",
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

/// Prints a table: a line for each object of `rows`, a column for each of `columns`.
pub fn table(columns: &[&str], rows: &[Value]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|column| match &row[*column] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                row[*column].to_string()
            }
        }));
    }
    say(format!("{table}"));
}

/// The devices, as a program reads them.
pub fn device_rows(topology: &Topology, health: &HealthNow) -> Vec<Value> {
    let row = |(id, device): &(DeviceId, holdfast_meta_raft_machine::records::Device)| {
        let beat = heard(health, *id).and_then(|device| device.beat.as_ref());
        let slots = topology.pgs.iter().filter(|(_, pg)| pg.devices.contains(id)).count();
        let moving = |pg: &holdfast_meta_raft_machine::records::Pg| {
            pg.previous.as_ref().is_some_and(|previous| previous.devices.contains(id))
                && !pg.devices.contains(id)
        };
        let leaving = topology.pgs.iter().filter(|(_, pg)| moving(pg)).count();
        let host = topology.host(device.host).map(|host| &host.name);
        json!({
            "device": id.0,
            "host": host,
            "place": device.place.to_string(),
            "duty": duty_name(device.duty),
            "up": is_up(health, *id),
            "weight": device.weight,
            "groups": slots,
            "leaving": leaving,
            "live": beat.map(|beat| beat.live),
            "free": beat.map(|beat| beat.free),
            "shards": beat.map(|beat| beat.shards),
        })
    };
    topology.devices.iter().map(row).collect()
}

fn readable(rows: &mut [Value], fields: &[&str]) {
    for row in rows {
        for field in fields {
            if let Some(number) = row[*field].as_u64() {
                row[*field] = Value::String(bytes(number));
            }
        }
    }
}

impl Operator {
    fn print(&self, columns: &[&str], mut rows: Vec<Value>) {
        if self.json {
            say(format!("{:#}", Value::Array(rows)));
        } else {
            readable(&mut rows, &["live", "free"]);
            table(columns, &rows);
        }
    }

    pub async fn devices(&self) -> Result<(), SystemError> {
        let rows = device_rows(&self.topology, &self.health().await?);
        let columns =
            ["device", "host", "place", "duty", "up", "groups", "leaving", "live", "free", "shards"];
        self.print(&columns, rows);
        Ok(())
    }

    pub async fn nodes(&self) -> Result<(), SystemError> {
        let (topology, health) = (&self.topology, self.health().await?);
        let rows = topology.hosts.iter().map(|(id, host)| {
            let devices = topology.devices.iter().filter(|(_, device)| device.host == *id).count();
            json!({
                "host": id.0,
                "name": host.name,
                "roles": host.roles.to_string(),
                "address": host.address,
                "place": host.place.to_string(),
                "devices": devices,
                "state": match (host.revoked, is_host_up(&health, *id)) {
                    (true, _) => "revoked",
                    (false, true) => "up",
                    (false, false) => "down",
                },
            })
        });
        let columns = ["host", "name", "roles", "address", "place", "devices", "state"];
        self.print(&columns, rows.collect());
        Ok(())
    }

    pub fn pools(&self) -> Result<(), SystemError> {
        let pool = self.topology.pool.as_ref();
        let rows = pool.map(|pool| {
            json!({
                "profile": pool.profile.to_string(),
                "domain": pool.domain.to_string(),
                "groups": pool.pg_count,
                "survives": format!("any {} devices, any one {}", pool.profile.parity(), pool.domain),
            })
        });
        self.print(&["profile", "domain", "groups", "survives"], rows.into_iter().collect());
        Ok(())
    }

    pub async fn pgs(&self) -> Result<(), SystemError> {
        let (topology, health) = (&self.topology, self.health().await?);
        let list =
            |devices: &[DeviceId]| devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let rows = topology.pgs.iter().map(|(id, pg)| {
            let down = pg.devices.iter().filter(|device| !is_up(&health, **device)).count();
            json!({
                "group": id.0,
                "epoch": pg.epoch.0,
                "devices": list(&pg.devices),
                "from": pg.previous.as_ref().map(|previous| list(&previous.devices)),
                "down": down,
            })
        });
        self.print(&["group", "epoch", "devices", "from", "down"], rows.collect());
        Ok(())
    }

    pub async fn members(&self) -> Result<(), SystemError> {
        let (topology, health) = (&self.topology, self.health().await?);
        let voters = health.voters.iter().map(|id| (id, "voter"));
        let members = voters.chain(health.learners.iter().map(|id| (id, "learner")));
        let rows = members.map(|(id, kind)| {
            let host = topology.host(HostId(*id));
            json!({
                "host": id,
                "name": host.map(|host| &host.name),
                "address": host.map(|host| &host.address),
                "member": kind,
                "leads": *id == health.leader,
                "up": is_host_up(&health, HostId(*id)),
            })
        });
        self.print(&["host", "name", "address", "member", "leads", "up"], rows.collect());
        Ok(())
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
