//! A `redis-server` of a test, on a unix socket or a free port, ended by its process id.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The server binary, or `None` if there is none; then the test is skipped, but not where `CI` is set.
pub(crate) fn binary() -> Option<&'static str> {
    let found = ["redis-server", "valkey-server"].into_iter().find(|name| {
        let run = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "redis-server is not installed"
        );
        println!("skipped: redis-server is not installed");
    }
    found
}

pub(crate) struct Server {
    binary: &'static str,
    child: Child,
    arguments: Vec<String>,
    clock: bool,
    pub(crate) dir: PathBuf,
}

impl Server {
    /// `None` if there is no binary.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&[], false)
    }

    /// A server whose clock [`step`](Self::step) moves.
    pub(crate) fn with_clock() -> Option<Self> {
        Self::with(&[], true)
    }

    pub(crate) fn with(arguments: &[&str], clock: bool) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let binary = binary()?;
        let number = NUMBER.fetch_add(1, Relaxed);
        let dir = std::env::temp_dir().join(format!("fleet-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        if clock {
            shim(&dir);
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let child = spawn(binary, &dir, &arguments, clock);
        let server = Self {
            binary,
            child,
            arguments,
            clock,
            dir,
        };
        server.wait();
        Some(server)
    }

    pub(crate) fn address(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "the server does not start");
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends an inline command, and returns the first part of the answer.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = fs::remove_file(self.socket());
    }

    /// Starts a killed server again, empty.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.binary, &self.dir, &self.arguments, self.clock);
        self.wait();
    }

    /// Sets the clock of the server off by so many seconds.
    pub(crate) fn step(&self, seconds: i64) {
        fs::write(self.dir.join("clock"), (seconds * 1_000_000).to_ne_bytes()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(binary: &str, dir: &Path, arguments: &Vec<String>, clock: bool) -> Child {
    let mut command = Command::new(binary);
    if !arguments.iter().any(|argument| argument == "--port") {
        command.args(["--port", "0"]);
    }
    command
        .arg("--unixsocket")
        .arg(dir.join("s"))
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(dir)
        .args(arguments)
        .stdout(Stdio::null());
    if clock {
        command
            .env("LD_PRELOAD", dir.join("clock.so"))
            .env("CLOCK_OFFSET", dir.join("clock"));
    }
    command.spawn().unwrap()
}

/// Builds a `gettimeofday` that adds the microseconds that a file holds.
fn shim(dir: &Path) {
    let source = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdint.h>
        #include <stdlib.h>
        #include <sys/time.h>
        #include <time.h>
        #include <unistd.h>
        int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
            static int file = -1;
            struct timespec now;
            int64_t offset = 0, micros;
            if (file < 0) file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
            if (file < 0 || pread(file, &offset, 8, 0) != 8) offset = 0;
            clock_gettime(CLOCK_REALTIME, &now);
            micros = now.tv_sec * 1000000LL + now.tv_nsec / 1000 + offset;
            tv->tv_sec = micros / 1000000;
            tv->tv_usec = micros % 1000000;
            return 0;
        }
    "#;
    fs::write(dir.join("clock.c"), source).unwrap();
    fs::write(dir.join("clock"), 0_i64.to_ne_bytes()).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([dir.join("clock.so"), dir.join("clock.c")])
        .status();
    assert!(built.unwrap().success(), "cc cannot build the clock");
}

/// A free port. Another process could take it before it is used; servers say so and the test fails.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
