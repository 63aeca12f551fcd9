//! A TCP server: sends back what it gets, to many clients at once.
//!
//! The platform chooses where it listens and says so in `PORT`; an argument is an address to try instead. `GREETING` is what each connection begins with, if anything; a client that
//! sends `exit` ends the program with a failure.

use wstd::io::{self, AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};

#[wstd::main]
async fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "7000".to_owned());
    let address = std::env::args().nth(1).unwrap_or_else(|| format!("127.0.0.1:{port}"));
    let listener = TcpListener::bind(&address).await?;
    println!("listening at {address}");
    let greeting = std::env::var("GREETING")
        .map(|greeting| format!("{greeting} from port {port}\n"))
        .unwrap_or_default();
    let mut incoming = listener.incoming();
    while let Some(client) = incoming.next().await {
        // A client that left before it was accepted is no reason to end.
        let Ok(client) = client else { continue };
        let greeting = greeting.clone();
        wstd::runtime::spawn(async move {
            if let Err(error) = echo(&client, &greeting).await {
                eprintln!("a connection broke: {error}");
            }
        })
        .detach();
    }
    Ok(())
}

/// Returns when the client has finished, or has gone.
async fn echo(mut client: &TcpStream, greeting: &str) -> io::Result<()> {
    client.write_all(greeting.as_bytes()).await?;
    let mut chunk = vec![0; 16 << 10];
    loop {
        let length = client.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        if chunk[..length].trim_ascii() == b"exit" {
            eprintln!("ending, because a client said so");
            std::process::exit(1);
        }
        client.write_all(&chunk[..length]).await?;
    }
}
