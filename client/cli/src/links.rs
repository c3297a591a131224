//! `hf link`: links for those who are no users.

use crate::{
    api::Api,
    args::LinkCommand,
    files::{moment, space_and_path},
};
use holdfast_client_engine::error::{Result, at, plain};
use holdfast_proto::sync::MakeLink;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub async fn run(api: &Api, command: LinkCommand) -> Result<()> {
    match command {
        LinkCommand::Create { place, password, expires, max_downloads } => {
            let (space, path) = space_and_path(&place);
            let make = MakeLink {
                space: space.to_owned(),
                path: path.as_bytes().to_vec(),
                password: password.then(read_password).transpose()?,
                until_ms: expires.map(|time| ends(*time)).transpose()?,
                downloads: max_downloads,
            };
            let made = api.make_link(make).await?;
            println!("{}", made.url);
            eprintln!("\"hf link remove {space} {}\" ends it.", made.name);
            Ok(())
        }
        LinkCommand::List { space } => {
            for link in api.links(&space).await? {
                let path = String::from_utf8_lossy(&link.path).into_owned();
                let until =
                    link.until_ms.map(|until| format!("  until {}", moment(until))).unwrap_or_default();
                let left = link.downloads.map(|left| format!("  {left} downloads left")).unwrap_or_default();
                let password = if link.password { "  with a password" } else { "" };
                println!("{}  {space}/{path}{until}{left}{password}", link.name);
            }
            Ok(())
        }
        LinkCommand::Remove { space, name } => api.remove_link(&space, &name).await,
    }
}

fn read_password() -> Result<String> {
    eprint!("Password of the link: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(at("standard input"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// When something ends that is good for so long, in milliseconds since 1970.
fn ends(after: Duration) -> Result<u64> {
    let end = SystemTime::now().checked_add(after).and_then(|end| end.duration_since(UNIX_EPOCH).ok());
    end.and_then(|end| u64::try_from(end.as_millis()).ok()).map_or_else(|| plain("that is too long"), Ok)
}
