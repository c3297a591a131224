//! `hf conflicts`: what two devices changed at once.

use crate::{
    args::ConflictsCommand,
    daemon::{Order, order},
    home::Home,
    syncing::inside,
};
use holdfast_client_engine::error::{Result, plain};

pub async fn run(home: &Home, command: Option<ConflictsCommand>) -> Result<()> {
    match command {
        None => list(home).await,
        Some(ConflictsCommand::Resolve { file, keep }) => {
            let (directory, path) = inside(home, &file)?;
            match order(home, &Order::Resolve { directory, path, keep: keep.into() }).await? {
                Some(_) => Ok(()),
                None => plain("no daemon runs: start it with \"hf daemon\""),
            }
        }
    }
}

async fn list(home: &Home) -> Result<()> {
    let Some(shown) = order(home, &Order::Conflicts).await? else {
        return plain("no daemon runs: start it with \"hf daemon\"");
    };
    for root in shown {
        for path in root.conflicts {
            println!("{}/{path}: kept apart until \"hf conflicts resolve\"", root.directory);
        }
        for path in root.copies {
            println!("{}/{path}: a copy", root.directory);
        }
    }
    Ok(())
}
