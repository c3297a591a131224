//! Suites of boto3 between users, and the operator's commands that they need.

use std::{path::Path, process::Command};

/// Each stands alone, and shares users with the others.
const SUITES: [&str; 5] =
    ["access_suite.py", "encryption_suite.py", "iam_suite.py", "web_suite.py", "services_suite.py"];

/// Runs a client, and gives back what it printed.
pub fn run(mut command: Command) -> String {
    let output = command.output().expect("the client is installed: make test does that");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

/// An operator's command about users; `way` says of which system.
pub fn order(way: &[&str], args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(args).args(way);
    run(command)
}

/// Makes a user of a running system, and a key pair for it.
pub fn make_user(way: &[&str], name: &str, more: &[&str]) -> (String, String) {
    let order = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&order(way, &[args, &["--json"]].concat())).expect("JSON")
    };
    let user = order(&[&["user", "create", name], more].concat());
    assert_eq!(user["id"], name);
    let key = order(&["key", "create", "--user", name]);
    let text = |field: &str| key[field].as_str().expect("a text").to_owned();
    (text("access_key"), text("secret_key"))
}

/// Runs the suites between the system's owner and two users, who are made for it.
pub fn suites(way: &[&str], endpoint: &str, owner: (&str, &str)) -> [(String, String); 2] {
    let alice = make_user(way, "alice", &[]);
    let bob = make_user(way, "bob", &["--email", "bob@example.org"]);
    for key in ["ledger", "archive"] {
        order(way, &["kms", "key", "create", key]);
    }
    for suite in SUITES {
        let mut python = Command::new("python3");
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(suite));
        python.args([&format!("http://{endpoint}"), owner.0, owner.1, &alice.0, &alice.1, &bob.0, &bob.1]);
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        println!("{}", run(python));
    }
    [alice, bob]
}
