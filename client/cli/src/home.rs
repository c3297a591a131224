//! Where `hf` keeps what it knows: the account, the database of the trees, the daemon's socket.

use holdfast_client_engine::error::{Error, Result, at};
use holdfast_client_link::Fingerprint;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{ErrorKind::NotFound, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

/// The state's directory.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

/// Whom this device belongs to.
#[derive(Clone, Serialize, Deserialize)]
pub struct Account {
    /// HOST:PORT
    pub server: String,
    pub user: String,
    /// What people call the device: conflicted copies have it in their names.
    pub name: String,
    pub device: String,
    secret: String,
    fingerprint: String,
}

impl Account {
    pub fn new(
        server: &str,
        user: &str,
        name: &str,
        device: String,
        secret: &[u8],
        shown: Fingerprint,
    ) -> Self {
        Self {
            server: server.to_owned(),
            user: user.to_owned(),
            name: name.to_owned(),
            device,
            secret: hex::encode(secret),
            fingerprint: shown.to_string(),
        }
    }

    /// # Errors
    /// Where the file was damaged.
    pub fn secret(&self) -> Result<Vec<u8>> {
        hex::decode(&self.secret).map_err(|_| Error::Damaged("account.json".to_owned()))
    }

    /// # Errors
    /// Where the file was damaged.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(self.fingerprint.parse()?)
    }
}

impl Home {
    /// `HF_HOME`, or the platform's directory for programs' data.
    ///
    /// # Errors
    /// Where there is neither.
    pub fn find() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let found = set("HF_HOME")
            .or_else(|| Some(set("XDG_DATA_HOME")?.join("hf")))
            .or_else(|| Some(set("HOME")?.join(".local/share/hf")));
        let dir = found.ok_or(Error::Plain("there is no home directory: set HF_HOME".to_owned()))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        Ok(Self(dir))
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("sync.db")
    }

    /// Where the databases of what is known of each synced directory are.
    ///
    /// # Errors
    /// Where there is no such place, and none can be made.
    pub fn trees(&self) -> Result<PathBuf> {
        let dir = self.0.join("trees");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        Ok(dir)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("daemon.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("daemon.lock")
    }

    /// The account.
    ///
    /// # Errors
    /// Where there is none.
    pub fn account(&self) -> Result<Account> {
        let path = self.0.join("account.json");
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() == NotFound {
            true => Error::Plain("this device belongs to nobody yet: hf login ADDR --user NAME".to_owned()),
            false => at(&path)(error),
        })?;
        serde_json::from_str(&text).map_err(|_| Error::Damaged(path.display().to_string()))
    }

    /// Keeps an account. Nobody else may read it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self, account: &Account) -> Result<()> {
        let (path, part) = (self.0.join("account.json"), self.0.join("account.json.part"));
        let text = serde_json::to_vec_pretty(account).map_err(|error| Error::Plain(error.to_string()))?;
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(at(&part))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&part))?;
        fs::rename(&part, &path).map_err(at(&path))
    }
}
