//! S3 over TLS, with HTTP/1.1 and HTTP/2, and certificates that change.

mod common;

use common::{Server, suites::run};
use std::{path::Path, process::Command};

fn pem(kind: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(kind, der))
}

/// A certificate that vouches for itself, and its key, as PEM in `dir`.
fn certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    // The key last: in between the two do not belong together, and the old ones stay.
    std::fs::write(dir.join("new.pem"), pem("CERTIFICATE", made.cert.der())).expect("a file");
    std::fs::rename(dir.join("new.pem"), dir.join("cert.pem")).expect("a rename");
    std::fs::write(dir.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der()))
        .expect("a file");
}

#[test]
fn s3_speaks_tls_and_takes_other_certificates_while_it_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    certificate(dir.path());
    let [cert_option, key_option] = [&cert, &key].map(|path| path.display().to_string());
    let server =
        Server::start(&dir.path().join("data"), &["--tls-cert", &cert_option, "--tls-key", &key_option]);
    let port = server.s3.rsplit(':').next().expect("a port").to_owned();
    let curl = |trusted: &Path, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--max-time",
            "20",
            "--resolve",
            &format!("localhost:{port}:127.0.0.1"),
            "--cacert",
        ]);
        command.arg(trusted).args(more);
        command
    };
    let signed = [
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "--user",
        &format!("{}:{}", common::ACCESS_KEY, common::SECRET_KEY),
        "-H",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ];
    let url = format!("https://localhost:{port}");
    let body = dir.path().join("body");
    std::fs::write(&body, common::noise(1, 5_000_000)).expect("a file");
    for version in ["--http1.1", "--http2"] {
        let bucket = format!("{url}/tls{}", version.trim_start_matches('-').replace('.', "-"));
        let made = curl(&cert, &[&signed[..], &[version, "-f", "-X", "PUT", &bucket]].concat());
        run(made);
        let upload = body.display().to_string();
        let put = ["-f", version, "-T", &upload, "-w", "%{http_version}"];
        let put = curl(&cert, &[&signed[..], &put, &[&format!("{bucket}/k")]].concat());
        assert_eq!(run(put).trim(), if version == "--http2" { "2" } else { "1.1" });
        let back = dir.path().join("back").display().to_string();
        run(curl(&cert, &[&signed[..], &["-f", version, "-o", &back, &format!("{bucket}/k")]].concat()));
        assert!(std::fs::read(&body).expect("a file") == std::fs::read(&back).expect("a file"));
    }
    // Nobody's request over a plain connection is answered, and the version is not negotiated down.
    let plain =
        Command::new("curl").args(["-sS", "--max-time", "5", &format!("http://localhost:{port}/")]).output();
    assert!(!plain.expect("curl runs").status.success());
    let old = curl(&cert, &["--tls-max", "1.1", &url]).output();
    assert!(!old.expect("curl runs").status.success());

    let first = std::fs::read(&cert).expect("a file");
    std::fs::write(dir.path().join("first.pem"), first).expect("a file");
    certificate(dir.path());
    common::eventually("the new certificate is shown", || {
        curl(&cert, &[&url]).output().is_ok_and(|output| output.status.success())
    });
    let trusting_first = curl(&dir.path().join("first.pem"), &[&url]).output();
    assert!(!trusting_first.expect("curl runs").status.success());
    // What cannot be used is not shown.
    std::fs::write(&cert, "no certificate").expect("a file");
    common::eventually("the refusal is said", || server.log().contains("a new certificate cannot be used"));
    let still = curl(&dir.path().join("first.pem"), &["-k", &url]).output();
    assert!(still.expect("curl runs").status.success());
}

#[test]
fn http_2_without_tls_is_understood_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    server.client().create_bucket("plain");
    server.client().put("/plain/k", b"body");
    let signed = format!("{}:{}", common::ACCESS_KEY, common::SECRET_KEY);
    let url = format!("http://{}/plain/k", server.s3);
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-f",
        "--http2-prior-knowledge",
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "--user",
        &signed,
        "-H",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ]);
    curl.args(["-w", " %{http_version}", &url]);
    assert_eq!(run(curl), "body 2");
}
