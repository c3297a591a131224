//! `hf`: files in Holdfast, for the people who keep them there.

mod api;
mod args;
mod conflicts;
mod daemon;
mod database;
mod files;
mod home;
mod limits;
mod links;
mod progress;
mod syncing;
mod watching;

use api::Api;
use args::{Args, Command, DevicesCommand, SpacesCommand};
use clap::Parser;
use holdfast_client_engine::error::{Result, at};
use holdfast_proto::sync::MakeSpace;
use home::Home;
use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = std::env::var("HF_LOG").ok().filter(|text| !text.is_empty());
    // These write down whole frames, with the device's secret.
    let quiet = "tungstenite=info,tokio_tungstenite=info";
    let filter = format!("{},{quiet}", filter.as_deref().unwrap_or("warn"));
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(args.command));
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(at("threads")(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hf: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    let home = Home::find()?;
    let api = || {
        let api = Api::new(home.account()?);
        api.limits().set(&database::Database::open(&home)?.limits()?);
        Ok::<_, holdfast_client_engine::error::Error>(api)
    };
    match command {
        Command::Login { server, user, password_stdin, code_stdin, device, fingerprint } => {
            let secret = secret(&user, password_stdin, code_stdin)?;
            login(&home, &server, &user, secret, device, fingerprint).await
        }
        Command::Spaces { command: None } => {
            let spaces = api()?.spaces().await?;
            for space in spaces.spaces {
                println!(
                    "{:<40} {:<8} {:>10} files {:>16} bytes",
                    space.name, space.role, space.files, space.bytes
                );
            }
            if let Some(quota) = spaces.quota {
                println!("{} of {quota} bytes are used", spaces.used);
            }
            Ok(())
        }
        Command::Spaces { command: Some(SpacesCommand::Create { name, versions, days, spacing }) } => {
            api()?.make_space(MakeSpace { name, versions, days, spacing }).await
        }
        Command::Sync(command) => syncing::run(&home, command).await,
        Command::Daemon => daemon::run(&home).await,
        Command::Ls { place } => files::list(&api()?, &place).await,
        Command::Cat { place } => files::cat(&api()?, &place).await,
        Command::Cp { from, to } => files::copy(&api()?, &from, &to).await,
        Command::Mv { from, to } => files::rename(&api()?, &from, &to).await,
        Command::Rm { place } => files::remove(&api()?, &place).await,
        Command::Versions { place, version: Some(version), name: Some(name) } => {
            let (space, path) = files::place(&place)?;
            api()?.name_version(space, path.as_bytes(), version, &name).await
        }
        Command::Versions { place, .. } => files::versions(&api()?, &place).await,
        Command::Restore { place, at: Some(moment), .. } => files::restore_to(&api()?, &place, &moment).await,
        Command::Restore { place, version, .. } => {
            let (space, path) = files::place(&place)?;
            api()?.restore(space, path.as_bytes(), version).await
        }
        Command::Trash { space } => files::trash(&api()?, &space).await,
        Command::Share { place, user, role } => {
            let (space, path) = files::space_and_path(&place);
            api()?.share(space, path, &user, &role).await
        }
        Command::Unshare { place, user } => {
            let (space, path) = files::space_and_path(&place);
            api()?.share(space, path, &user, "").await
        }
        Command::Shares { space } => {
            for share in api()?.shares(&space).await? {
                let path = String::from_utf8_lossy(&share.path).into_owned();
                println!("{:<8} {:<20} {space}/{path}", share.role, share.user);
            }
            Ok(())
        }
        Command::Link(command) => links::run(&api()?, command).await,
        Command::Conflicts { command } => conflicts::run(&home, command).await,
        Command::Devices { command: None } => {
            for device in api()?.devices().await? {
                let this = if device.this { " (this one)" } else { "" };
                println!("{} {}{this}", device.id, device.name);
            }
            Ok(())
        }
        Command::Devices { command: Some(DevicesCommand::Code) } => {
            let made = api()?.make_code().await?;
            println!("{}", made.code);
            eprintln!("It is good once, for {} minutes.", made.seconds / 60);
            Ok(())
        }
        Command::Devices { command: Some(DevicesCommand::Revoke { id }) } => api()?.revoke(&id).await,
    }
}

/// Reads how somebody is known.
fn secret(user: &str, password_stdin: bool, code_stdin: bool) -> Result<api::Secret> {
    if !password_stdin && !code_stdin {
        eprint!("Password of {user}: ");
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(at("standard input"))?;
    let line = line.trim_end_matches(['\r', '\n']).to_owned();
    Ok(if code_stdin { api::Secret::Code(line) } else { api::Secret::Password(line) })
}

async fn login(
    home: &Home,
    server: &str,
    user: &str,
    secret: api::Secret,
    device: Option<String>,
    fingerprint: Option<String>,
) -> Result<()> {
    let known = fingerprint.as_deref().map(str::parse).transpose()?;
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = device.unwrap_or_else(host);
    let account = api::pair(server, user, secret, &name, known).await?;
    home.keep(&account)?;
    println!("This device is now one of {user}'s, as {name}");
    println!("The server's fingerprint is {}", account.fingerprint()?);
    Ok(())
}
