//! What the guests that report on conformance find around them, and how they are asked.

use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::{Ran, Wharf, workspace};

/// A command that tells what its host answered, one line an answer.
#[derive(Clone, Copy, Debug)]
pub struct Command(pub &'static str);

impl Command {
    /// Runs it with these flags of `wharf run` and these arguments.
    pub async fn run(self, flags: &[&str], args: &[&str]) -> Ran {
        let home = tempfile::tempdir().unwrap();
        let guest = workspace::guest(self.0);
        let line = [&["run", guest.to_str().unwrap()], flags, &["--"], args].concat();
        Wharf::at_home(home.path()).run(&line).await
    }

    /// The same; it must tell these lines among others.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn tells(self, flags: &[&str], args: &[&str], lines: &[&str]) {
        let ran = self.run(flags, args).await;
        for line in lines {
            let is_told = ran.stdout.lines().any(|told| told == *line);
            assert!(is_told, "`{line}` is not told: {}\n{}", ran.stdout, ran.stderr);
        }
    }
}

/// A folder as the guests expect it, `given`, with a secret beside it.
pub fn folder_to_explore() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let given = home.path().join("given");
    std::fs::create_dir_all(given.join("sub")).unwrap();
    std::fs::write(home.path().join("secret"), "x").unwrap();
    std::fs::write(given.join("file"), "hello").unwrap();
    symlink("../secret", given.join("out")).unwrap();
    symlink("file", given.join("in")).unwrap();
    home
}

/// A TCP and a UDP server at the same port of the loopback, which send back what they get.
pub async fn echo_server() -> u16 {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let port = udp.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut octets = Vec::new();
            stream.read_to_end(&mut octets).await.unwrap();
            stream.write_all(&octets).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let mut octets = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut octets).await {
            udp.send_to(&octets[..length], from).await.unwrap();
        }
    });
    port
}
