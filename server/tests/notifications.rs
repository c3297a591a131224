//! Events of buckets reach webhooks, whatever fails in between; and the journal as a feed.

mod common;

use common::{Client, Server, eventually, suites::order};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// A webhook that keeps what it takes, and refuses as many as it is told to.
struct Hook {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<(String, Value)>>>,
    refuses: Arc<AtomicU32>,
}

impl Hook {
    fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (taken, refuses) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicU32::new(0)));
        let (keep, left) = (taken.clone(), refuses.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (keep, left) = (keep.clone(), left.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    let (mut length, mut token, mut line) = (0, String::new(), String::new());
                    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                        let lower = line.trim().to_ascii_lowercase();
                        if let Some(text) = lower.strip_prefix("content-length: ") {
                            length = text.parse().expect("a length");
                        } else if lower.starts_with("authorization: ") {
                            token = line.trim()["authorization: ".len()..].to_owned();
                        } else if lower.is_empty() {
                            let mut body = vec![0; length];
                            reader.read_exact(&mut body).expect("a body");
                            let refuse =
                                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                            let status = if refuse.is_ok() { "503 No" } else { "200 OK" };
                            if refuse.is_err() {
                                let event = serde_json::from_slice(&body).expect("JSON");
                                keep.lock().expect("a lock").push((std::mem::take(&mut token), event));
                            }
                            write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
                                .expect("an answer");
                        }
                        line.clear();
                    }
                });
            }
        });
        Self { address, taken, refuses }
    }

    /// Names and keys of the events that were taken.
    fn events(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let event = |(_, event): &(String, Value)| {
            let record = &event["Records"][0];
            (text(&record["eventName"]), text(&record["s3"]["object"]["key"]))
        };
        self.taken.lock().expect("a lock").iter().map(event).collect()
    }
}

fn configure(client: &Client, bucket: &str, name: &str, rules: &str) -> u16 {
    configure_as(client, bucket, name, "i", rules)
}

fn configure_as(client: &Client, bucket: &str, name: &str, id: &str, rules: &str) -> u16 {
    let xml = format!(
        "<NotificationConfiguration><QueueConfiguration><Id>{id}</Id><Queue>arn:aws:sqs:us-east-1:000000000000:{name}</Queue>{rules}</QueueConfiguration></NotificationConfiguration>"
    );
    client.request("PUT", &format!("/{bucket}"), &[("notification", "")], xml.as_bytes()).status
}

fn pair(name: &str, key: &str) -> (String, String) {
    (name.to_owned(), key.to_owned())
}

#[test]
fn events_are_told_in_order_until_they_are_taken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let way = ["--data", &data.display().to_string()];
    let hook = Hook::start("127.0.0.1:0");
    let url = format!("http://{}/events", hook.address);
    order(&way, &["webhook", "create", "hook", &url, "--secret", "the-hooks-secret"]);
    let client = server.client();
    client.create_bucket("news");
    client.put("/news/before", b"nobody is told");
    let all = "<Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:*</Event>";
    assert_eq!(configure(&client, "news", "nobody", all), 400);
    assert_eq!(configure(&client, "news", "hook", "<Event>s3:Nonsense:*</Event>"), 400);
    assert_eq!(configure(&client, "news", "hook", all), 200);
    client.put("/news/a b", b"four");
    client.with_headers("PUT", "/news/copy", &[("x-amz-copy-source", "/news/a%20b")], b"");
    client.delete("/news/a b");
    eventually("three events came", || hook.events().len() >= 3);
    let mut events = hook.events();
    events.sort();
    assert_eq!(
        events,
        [
            pair("ObjectCreated:Copy", "copy"),
            pair("ObjectCreated:Put", "a+b"),
            pair("ObjectRemoved:Delete", "a+b")
        ]
    );
    let (token, first) = hook.taken.lock().expect("a lock")[0].clone();
    assert_eq!(token, "Bearer the-hooks-secret");
    let record = &first["Records"][0];
    assert_eq!((&record["eventSource"], &record["s3"]["bucket"]["name"]), (&"aws:s3".into(), &"news".into()));
    let created = hook
        .taken
        .lock()
        .expect("a lock")
        .iter()
        .any(|(_, event)| event["Records"][0]["s3"]["object"]["size"] == 4);
    assert!(created);

    // A webhook that is down, and a server that is killed: nothing is lost, and the order of each key stays.
    hook.taken.lock().expect("a lock").clear();
    hook.refuses.store(3, Ordering::SeqCst);
    for round in 0..20 {
        client.put(&format!("/news/k{}", round % 4), format!("{round}").as_bytes());
    }
    server.kill();
    let server = Server::start(&data, &[]);
    let client = server.client();
    for key in 0..4 {
        client.delete(&format!("/news/k{key}"));
    }
    eventually("all keys are told to be gone", || {
        // What came before may be told again.
        let gone = hook.events().into_iter();
        let gone = gone.filter(|(name, key)| name == "ObjectRemoved:Delete" && key.starts_with('k'));
        gone.map(|(_, key)| key).collect::<std::collections::BTreeSet<_>>().len() == 4
    });
    let events = hook.events();
    for key in 0..4 {
        let of_key: Vec<&str> = events
            .iter()
            .filter(|(_, name)| *name == format!("k{key}"))
            .map(|(name, _)| name.as_str())
            .collect();
        assert!(of_key.len() >= 6 && of_key.last() == Some(&"ObjectRemoved:Delete"), "{of_key:?}");
    }
    let sequence: Vec<String> = hook
        .taken
        .lock()
        .expect("a lock")
        .iter()
        .filter_map(|(_, event)| {
            let object = &event["Records"][0]["s3"]["object"];
            (object["key"] == "k1").then(|| object["sequencer"].as_str().expect("a text").to_owned())
        })
        .collect();
    let mut distinct = sequence.clone();
    distinct.dedup();
    let last_start = distinct.iter().rposition(|number| *number == distinct[0]).expect("it is there");
    assert!(distinct[last_start..].is_sorted(), "{sequence:?}");
    assert!(!server.log().contains("the-hooks-secret"));
}

#[test]
fn filters_markers_and_the_feed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let way = ["--data", &data.display().to_string()];
    let hook = Hook::start("127.0.0.1:0");
    order(&way, &["webhook", "create", "hook", &format!("http://{}", hook.address)]);
    let client = server.client();
    client.create_bucket("news");
    let versions = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(client.request("PUT", "/news", &[("versioning", "")], versions).status, 200);
    let rules = "<Event>s3:ObjectRemoved:DeleteMarkerCreated</Event><Event>s3:ObjectCreated:Put</Event><Filter><S3Key>\
        <FilterRule><Name>prefix</Name><Value>in/</Value></FilterRule><FilterRule><Name>suffix</Name><Value>.jpg</Value></FilterRule></S3Key></Filter>";
    assert_eq!(configure(&client, "news", "hook", rules), 200);
    for key in ["out/a.jpg", "in/a.png", "in/a.jpg"] {
        client.put(&format!("/news/{key}"), b"x");
        client.delete(&format!("/news/{key}"));
    }
    eventually("two events came", || hook.events().len() >= 2);
    assert_eq!(
        hook.events(),
        [pair("ObjectCreated:Put", "in/a.jpg"), pair("ObjectRemoved:DeleteMarkerCreated", "in/a.jpg")]
    );
    // A version that goes for good uncovers the one below it, which nobody made just now.
    let rules = "<Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:*</Event>";
    client.put("/news/stack", b"below");
    let above = client.with_headers("PUT", "/news/stack", &[], b"above");
    let above = above.headers.get("x-amz-version-id").expect("a version").clone();
    hook.taken.lock().expect("a lock").clear();
    assert_eq!(configure_as(&client, "news", "hook", "other", rules), 200);
    assert_eq!(client.request("DELETE", "/news/stack", &[("versionId", &above)], b"").status, 204);
    eventually("the removal came", || !hook.events().is_empty());
    assert_eq!(hook.events(), [pair("ObjectRemoved:Delete", "stack")]);
    assert!(hook.taken.lock().expect("a lock")[0].1["Records"][0]["s3"]["object"]["versionId"].is_null());
    let made = client.with_headers("PUT", "/news/stack", &[], b"again");
    eventually("the creation came", || hook.events().len() == 2);
    let told = hook.taken.lock().expect("a lock")[1].1["Records"][0]["s3"]["object"]["versionId"].clone();
    assert_eq!(told.as_str(), made.headers.get("x-amz-version-id").map(String::as_str));
    let feed: Value =
        serde_json::from_str(&order(&way, &["webhook", "changes", "news", "--json"])).expect("JSON");
    let lines: Vec<_> = feed["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| (change["change"].as_str().expect("a text"), change["key"].as_str().expect("a text")))
        .collect();
    assert_eq!(
        lines[..6],
        [
            ("put", "out/a.jpg"),
            ("delete", "out/a.jpg"),
            ("put", "in/a.png"),
            ("delete", "in/a.png"),
            ("put", "in/a.jpg"),
            ("delete", "in/a.jpg")
        ]
    );
    assert_eq!((&feed["gap"], lines.len()), (&false.into(), 10));
    let numbers: Vec<u64> =
        feed["changes"].as_array().expect("a list").iter().filter_map(|c| c["number"].as_u64()).collect();
    assert!(numbers.is_sorted() && feed["next"].as_u64() > numbers.last().copied(), "{numbers:?}");
    // Who waits is told at once.
    let (data_of, next) = (data.display().to_string(), feed["next"].to_string());
    let waiting = std::thread::spawn(move || {
        order(
            &["--data", &data_of],
            &["webhook", "changes", "news", "--from", &next, "--wait", "60", "--json"],
        )
    });
    client.put("/news/late", b"x");
    let late: Value = serde_json::from_str(&waiting.join().expect("an answer")).expect("JSON");
    assert_eq!(late["changes"][0]["key"], "late");
}
