//! A `redis-server` of our own, on a unix socket in a folder for temporary files.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::{env, fs, io};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    child: Child,
}

impl Store {
    /// `None` if there is no `redis-server`.
    pub(crate) async fn start() -> io::Result<Option<Self>> {
        let folder = env::temp_dir().join(format!("buttress-fleet-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        match spawn(&folder) {
            Ok(child) => {
                let store = Self { folder, child };
                store.wait().await?;
                Ok(Some(store))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("redis+unix://{}", self.folder.join("socket").display())
    }

    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await?;
        fs::remove_file(self.folder.join("socket"))
    }

    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.folder)?;
        self.wait().await
    }

    async fn wait(&self) -> io::Result<()> {
        let ready = async {
            while UnixStream::connect(self.folder.join("socket"))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), ready)
            .await
            .map_err(io::Error::from)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What cannot be removed is in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &PathBuf) -> io::Result<Child> {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .arg("--unixsocket")
        .arg(folder.join("socket"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}
