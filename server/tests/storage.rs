//! What storing costs, and what deleting gives back.

mod common;

use common::{Server, disk_usage, eventually, noise};

#[test]
fn objects_of_every_size_come_back_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let sizes = [0, 1, 1023, 1024, 1025, 5000, 70_000, 1 << 20, (1 << 20) + 1, 9_000_001];
    let server = Server::start(&data, &[]);
    let client = server.client();
    client.create_bucket("sizes");
    for size in sizes {
        client.put(&format!("/sizes/{size}"), &noise(size as u64, size));
    }
    assert_eq!(server.stop(), Some(0));
    let server = Server::start(&data, &[]);
    let client = server.client();
    for size in sizes {
        assert!(client.get(&format!("/sizes/{size}")) == noise(size as u64, size), "{size} bytes differ");
        for (from, to) in [(0, size), (size / 3, size / 2), (size.saturating_sub(1), size)] {
            if from < to {
                let range = format!("bytes={from}-{}", to - 1);
                let part = client.with_headers("GET", &format!("/sizes/{size}"), &[("range", &range)], b"");
                assert_eq!((part.status, part.body.len()), (206, to - from));
                assert!(part.body == noise(size as u64, size)[from..to], "{range} of {size} differs");
            }
        }
    }
}

#[test]
fn the_same_bytes_are_stored_once_across_buckets_and_restarts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let body = noise(1, 64 << 20);
    let server = Server::start(&data, &[]);
    let client = server.client();
    client.create_bucket("one");
    client.put("/one/first", &body);
    let once = server.metric("holdfast_shard_put_bytes_total");
    assert!(once > 64e6 * 1.5 && once < 64e6 * 1.7, "{once} bytes for 64 MiB");
    assert_eq!(server.stop(), Some(0));

    let server = Server::start(&data, &[]);
    let client = server.client();
    client.create_bucket("two");
    client.put("/two/second", &body);
    assert!(server.metric("holdfast_shard_put_bytes_total") < 1e6, "the same bytes were stored twice");
    let mut moved = vec![42];
    moved.extend_from_slice(&body);
    client.put("/two/third", &moved);
    let inserted = server.metric("holdfast_shard_put_bytes_total");
    assert!(inserted < 2e6 * 1.6, "{inserted} bytes for one inserted byte");
    assert!(client.get("/two/third") == moved && client.get("/one/first") == body);
}

#[test]
fn deleting_nine_tenths_of_small_objects_gives_their_space_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--gc-grace", "2s"]);
    let client = server.client();
    client.create_bucket("box");
    let (count, size) = (4000u64, 40_000);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let client = server.client();
            scope.spawn(move || {
                (worker..count).step_by(8).for_each(|n| client.put(&format!("/box/{n}"), &noise(n, size)));
            });
        }
    });
    let segments =
        || -> u64 { (0..6).map(|n| disk_usage(&data.join(format!("devices/dev-{n}/segments")))).sum() };
    let full = segments();
    assert!(full as f64 > count as f64 * size as f64 * 1.5);
    // One in ten stays, in no order that packs could follow.
    let stays = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < (1 << 32) / 10;
    let kept: Vec<u64> = (0..count).filter(|&n| stays(n)).collect();
    (0..count).filter(|&n| !stays(n)).for_each(|n| client.delete(&format!("/box/{n}")));
    let need = kept.len() as f64 * size as f64 * 1.5;
    eventually("the devices hold what live data needs, and a fifth more at most", || {
        (segments() as f64) < need * 1.2
    });
    for &n in &kept {
        assert!(client.get(&format!("/box/{n}")) == noise(n, size), "object {n} differs after compaction");
    }
    assert_eq!(client.list("box", "").len(), kept.len());
    kept.iter().for_each(|n| client.delete(&format!("/box/{n}")));
    // The archive of the metadata, which saw all of it come and go.
    eventually("an emptied system holds nothing else", || segments() < 10 << 20);
    assert_eq!(server.metric("holdfast_collection_stopped"), 0.0);
}

#[test]
fn an_upload_that_lasts_longer_than_the_grace_period_commits() {
    use std::{
        io::{Read, Write},
        time::Duration,
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &["--gc-grace", "2s"]);
    let client = server.client();
    client.create_bucket("box");
    // A presigned URL, so that the body can be sent by hand.
    let script = "import boto3, sys\nfrom botocore.config import Config\n\
        c = boto3.client('s3', endpoint_url='http://' + sys.argv[1], region_name='us-east-1', \
        aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3], config=Config(signature_version='s3v4'))\n\
        print(c.generate_presigned_url('put_object', {'Bucket': 'box', 'Key': 'slow'}))";
    let url = std::process::Command::new("python3")
        .args(["-c", script, &server.s3, common::ACCESS_KEY, common::SECRET_KEY])
        .output()
        .expect("python3 runs");
    let url = String::from_utf8(url.stdout).expect("a URL");
    let target = url.trim().strip_prefix(&format!("http://{}", server.s3)).expect("this server's URL");
    let body = noise(5, 6 << 20);
    let mut stream = std::net::TcpStream::connect(&server.s3).expect("a connection");
    let head = format!(
        "PUT {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        server.s3,
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    // The pace of the client is what is tested: three grace periods.
    for piece in body.chunks(1 << 20) {
        stream.write_all(piece).expect("the server reads");
        std::thread::park_timeout(Duration::from_secs(1));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(client.get("/box/slow") == body);
}
