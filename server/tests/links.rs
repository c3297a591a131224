//! Links for those who are no users, with curl as the browser.

mod common;

use common::devices::{Device, PASSWORD, World, feed};
use std::{fs, process::Command};

/// What curl got: the status, the headers and the body.
struct Got {
    status: String,
    headers: String,
    body: Vec<u8>,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.headers.lines().find(named).and_then(|line| Some(line.split_once(':')?.1.trim()))
    }
}

fn curl(args: &[&str]) -> Got {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--path-as-is", "--write-out", "%{http_code}", "--dump-header"]).arg(&head);
    let output = curl.arg("--output").arg(&body).args(args).output().expect("curl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Got {
        status: String::from_utf8(output.stdout).expect("text"),
        headers: fs::read_to_string(head).expect("headers"),
        body: fs::read(body).unwrap_or_default(),
    }
}

fn create(device: &Device, args: &[&str]) -> String {
    let url = device.run(&[&["link", "create"], args].concat());
    url.trim().to_owned()
}

fn a_space() -> (World, Device) {
    let world = World::new();
    let [a] = world.devices(["laptop"]);
    a.write("team/plan.txt", "the plan");
    a.write("team/more/<b>.html", "<script>alert(1)</script>");
    a.write("secret.txt", "not for you");
    fs::write(a.root.join("team/large"), common::noise(5, 3_000_000)).expect("it is written");
    a.wait();
    (world, a)
}

#[test]
fn a_file_is_downloaded_by_whoever_has_its_link() {
    let (_world, a) = a_space();
    let url = create(&a, &["docs/team/large"]);
    let page = curl(&[&url]);
    assert_eq!(page.status, "200");
    assert!(page.text().contains("3\u{a0}000\u{a0}000 bytes"), "{}", page.text());
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let file = curl(&[&format!("{url}/large")]);
    assert!(file.body == common::noise(5, 3_000_000), "{}", file.status);
    assert_eq!(file.header("content-disposition"), Some("attachment; filename*=UTF-8''large"));
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    let head = curl(&["--head", &format!("{url}/large")]);
    assert_eq!((head.status.as_str(), head.header("content-length")), ("200", Some("3000000")));
    // It goes where the file goes, and shows what the file is by then.
    fs::rename(a.root.join("team"), a.root.join("crew")).expect("it is moved");
    a.wait();
    fs::rename(a.root.join("crew/large"), a.root.join("huge")).expect("it is moved");
    a.wait();
    fs::write(a.root.join("huge"), "small").expect("it is written");
    a.wait();
    assert_eq!(curl(&[&format!("{url}/huge")]).text(), "small");
    // It ends with the file, and by its name.
    let other = create(&a, &["docs/huge"]);
    let list = a.run(&["link", "list", "docs"]);
    assert_eq!(list.lines().filter(|line| line.contains("docs/huge")).count(), 2, "{list}");
    for line in list.lines() {
        a.run(&["link", "remove", "docs", line.split(' ').next().expect("a name")]);
    }
    assert_eq!(a.run(&["link", "list", "docs"]), "");
    for url in [url, other] {
        assert_eq!(curl(&[&format!("{url}/huge")]).status, "404");
    }
    assert!(a.refused(&["link", "create", "docs/nothing"]).contains("there is nothing of that name"));
}

#[test]
fn a_directorys_link_leads_to_what_is_in_it_and_nowhere_else() {
    let (world, a) = a_space();
    let url = create(&a, &["docs/team"]);
    let page = curl(&[&url]);
    for name in [">plan.txt<", ">more/<", ">large<"] {
        assert!(page.text().contains(name), "{name}: {}", page.text());
    }
    assert!(!page.text().contains("secret"));
    assert_eq!(curl(&[&format!("{url}/plan.txt")]).text(), "the plan");
    // What somebody stored is handed out, never shown.
    let inner = curl(&[&format!("{url}/more/")]);
    assert!(inner.text().contains("&lt;b&gt;.html") && !inner.text().contains("<b>"), "{}", inner.text());
    let file = curl(&[&format!("{url}/more/%3Cb%3E.html")]);
    assert_eq!(file.text(), "<script>alert(1)</script>");
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    for out in ["../secret.txt", "..%2fsecret.txt", "/secret.txt", "%2fsecret.txt", "plan.txt/", "."] {
        let got = curl(&[&format!("{url}/{out}")]);
        assert!(!got.text().contains("not for you"), "{out}: {}", got.text());
    }
    // Another secret, another space's name, other methods.
    let (before, secret) = url.rsplit_once('/').expect("a secret");
    let other: String = secret.chars().rev().collect();
    for wrong in [
        format!("{before}/{other}"),
        url.replace("/docs/", "/none/"),
        format!("{before}/"),
        format!("{before}/x"),
    ] {
        assert_eq!(curl(&[&wrong]).status, "404", "{wrong}");
    }
    for method in ["PUT", "DELETE", "POST"] {
        assert_eq!(curl(&["--request", method, &format!("{url}/plan.txt")]).status, "405");
    }
    // Whoever made it may not read any more: nor may anybody by it.
    world.operate(&["user", "disable", "alice"]);
    assert_eq!(curl(&[&url]).status, "404");
    world.operate(&["user", "enable", "alice"]);
    assert_eq!(curl(&[&url]).status, "200");
    // No log has what opens it.
    let log = common::log_of(&world.data());
    assert!(!log.contains(secret));
}

#[test]
fn a_link_with_a_password_opens_to_who_has_both() {
    let (world, a) = a_space();
    let made = feed(a.command(&["link", "create", "docs/team", "--password"]), PASSWORD);
    assert!(made.status.success());
    let url = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    let jar = world.dir.path().join("cookies").display().to_string();
    let asked = curl(&[&url]);
    assert_eq!(asked.status, "403");
    assert!(asked.text().contains("type=\"password\"") && !asked.text().contains("plan"), "{}", asked.text());
    assert_eq!(curl(&[&format!("{url}/plan.txt")]).status, "403");
    let say = |password: &str| format!("password={}", password.replace(' ', "+"));
    let wrong = curl(&["--data", &say("wrong horse"), &url]);
    assert!(wrong.text().contains("not the password") && wrong.header("set-cookie").is_none());
    let right = curl(&["--cookie-jar", &jar, "--data", &say(PASSWORD), &url]);
    assert_eq!((right.status.as_str(), right.header("location").is_some()), ("303", true));
    assert!(right.header("set-cookie").is_some_and(|cookie| cookie.contains("HttpOnly; SameSite=Strict")));
    assert_eq!(curl(&["--cookie", &jar, &format!("{url}/plan.txt")]).text(), "the plan");
    // A form that does not end costs its sender alone.
    let huge = format!("password={}", "x".repeat(100_000));
    assert_eq!(curl(&["--data", &huge, &url]).status, "403");
}

#[test]
fn a_link_ends_with_its_time_or_its_downloads() {
    let (_world, a) = a_space();
    let twice = create(&a, &["docs/team/plan.txt", "--max-downloads", "2"]);
    let file = format!("{twice}/plan.txt");
    assert!(curl(&[&twice]).text().contains("2 more times"));
    assert_eq!(curl(&["--head", &file]).status, "200", "looking is no download");
    // A part counts as the whole: parts make one.
    assert_eq!(curl(&["--range", "1-", &file]).status, "200");
    assert_eq!(curl(&[&file]).text(), "the plan");
    assert_eq!(curl(&[&file]).status, "410");
    assert!(a.run(&["link", "list", "docs"]).contains("0 downloads left"));
    let brief = create(&a, &["docs/team/plan.txt", "--expires", "1s"]);
    common::eventually("it ends", || curl(&[&brief]).status == "404");
    assert!(!a.run(&["link", "list", "docs"]).contains("until"));
    assert!(a.refused(&["link", "create", "docs/team", "--max-downloads", "0"]).contains("nowhere"));
    // Nobody makes links to what is another's.
    assert!(a.refused(&["link", "create", "nobodys/file"]).contains("not yours"));
}
