//! How long one policy of ten statements takes to say what it says of a request. The target is 2 microseconds.

use holdfast_gateway_policy::{Caller, Policy, Request};
use std::{hint::black_box, net::IpAddr, time::Instant};

const ROUNDS: u32 = 200_000;

struct Asked<'a> {
    action: &'a str,
    resource: &'a str,
}

impl Request for Asked<'_> {
    fn caller(&self) -> Caller<'_> {
        let arn = "arn:aws:iam::123456789012:user/alice";
        Caller::User { account: "123456789012", arn, canonical: "alice", role: None }
    }

    fn action(&self) -> &str {
        self.action
    }

    fn resource(&self) -> &str {
        self.resource
    }

    fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) {
        match key {
            "aws:username" => visit("alice"),
            "aws:securetransport" => visit("true"),
            "s3:existingobjecttag/team" => visit("storage"),
            _ => {}
        }
    }

    fn source_ip(&self) -> Option<IpAddr> {
        Some(IpAddr::from([10, 1, 2, 3]))
    }
}

/// Ten statements of a kind that people write, of which the last allows what is asked for.
fn policy() -> Policy {
    let other = |number: u32| {
        format!(
            r#"{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::123456789012:user/u{number}"}},"Action":["s3:GetObject","s3:PutObject*"],
            "Resource":"arn:aws:s3:::box/home/u{number}/*","Condition":{{"IpAddress":{{"aws:SourceIp":"10.{number}.0.0/16"}}}}}}"#
        )
    };
    let mut statements: Vec<String> = (0..7).map(other).collect();
    statements.push(r#"{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::box/*","Condition":{"Bool":{"aws:SecureTransport":"false"}}}"#.to_owned());
    statements.push(r#"{"Effect":"Deny","Principal":"*","Action":"s3:Delete*","Resource":"arn:aws:s3:::box/*","Condition":{"StringNotEquals":{"s3:ExistingObjectTag/team":"storage"}}}"#.to_owned());
    statements.push(r#"{"Effect":"Allow","Principal":{"AWS":"123456789012"},"Action":"s3:Get*","Resource":"arn:aws:s3:::box/home/${aws:username}/*"}"#.to_owned());
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
    Policy::of_resource(&text, "arn:aws:s3:::box").expect("a policy")
}

fn main() {
    let policy = policy();
    for (what, action, resource) in [
        (
            "allowed by the last statement",
            "s3:GetObject",
            "arn:aws:s3:::box/home/alice/documents/2026/report.pdf",
        ),
        ("no statement applies", "s3:PutObject", "arn:aws:s3:::box/elsewhere/report.pdf"),
    ] {
        let asked = Asked { action, resource };
        let best = (0..9)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..ROUNDS {
                    black_box(black_box(&policy).effect(black_box(&asked)));
                }
                start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
            })
            .fold(f64::MAX, f64::min);
        println!("ten statements, {what}: {best:.0} ns (target 2000)");
    }
}
