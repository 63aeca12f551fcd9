//! Sockets.

use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket};
use wasip2::sockets::udp_create_socket::create_udp_socket;

/// Talks to a server at 127.0.0.1 and this port that sends back what it gets, by TCP and by UDP.
pub(crate) fn report(port: &str) {
    let port = port.parse().expect("it is a port");
    println!("tcp: {}", tcp(port));
    tell("tcp to another", connect(at([127, 0, 0, 2], port)).map(drop));
    tell("tcp to nowhere", connect(at([0, 0, 0, 0], port)).map(drop));
    tell("tcp to port 0", connect(at([127, 0, 0, 1], 0)).map(drop));
    tell("listen", listen());
    tell("udp", udp(at([127, 0, 0, 1], port)));
    tell("udp to another", udp(at([127, 0, 0, 2], port)));
    tell("name", resolve_addresses(&instance_network(), "no name").map(drop));
}

/// Asks the server of a name for a page until it answers, and then stays.
pub(crate) fn keep_asking(name: &str, port: &str, path: &str) {
    let port = port.parse().expect("it is a port");
    loop {
        let said = ask(name, port, path);
        let is_answered = said.as_ref().is_ok_and(|said| said.contains("200 OK"));
        tell("asked", said);
        let pause = if is_answered { 3600 } else { 1 };
        std::thread::sleep(std::time::Duration::from_secs(pause));
    }
}

/// Sends so many octets to a server at 127.0.0.1 as fast as it may, by `tcp` or by `udp`, and then stays.
pub(crate) fn flood(by: &str, port: &str, octets: &str) {
    let address = at([127, 0, 0, 1], port.parse().expect("it is a port"));
    let octets = octets.parse().expect("it is a number");
    match by {
        "tcp" => tell("flooded", flood_stream(address, octets)),
        _ => tell("flooded", flood_datagrams(address, octets)),
    }
    std::thread::sleep(std::time::Duration::from_secs(3600));
}

fn flood_stream(address: IpSocketAddress, octets: usize) -> Result<bool, ErrorCode> {
    let (input, output, socket) = connect(address)?;
    // As much as this call takes at once.
    let sent = vec![0; octets].chunks(4096).all(|piece| output.blocking_write_and_flush(piece).is_ok());
    drop((input, output));
    drop(socket);
    Ok(sent)
}

/// In pieces of a thousand.
fn flood_datagrams(address: IpSocketAddress, octets: usize) -> Result<bool, ErrorCode> {
    let (socket, input, output) = datagrams()?;
    let writable = output.subscribe();
    let mut left = octets / 1000;
    while left > 0 {
        let permitted = usize::try_from(output.check_send()?).unwrap_or(usize::MAX).min(left);
        if permitted == 0 {
            writable.block();
            continue;
        }
        let datagram = || OutgoingDatagram { data: vec![0; 1000], remote_address: Some(address) };
        let datagrams: Vec<OutgoingDatagram> = (0..permitted).map(|_| datagram()).collect();
        left -= usize::try_from(output.send(&datagrams)?).unwrap_or(left);
    }
    drop(writable);
    drop((input, output));
    drop(socket);
    Ok(true)
}

fn ask(name: &str, port: u16, path: &str) -> Result<String, ErrorCode> {
    let found = resolve_addresses(&instance_network(), name)?;
    let pollable = found.subscribe();
    let address = wait(&pollable, || found.resolve_next_address())?;
    drop(pollable);
    let Some(IpAddress::Ipv4((a, b, c, d))) = address else { return Err(ErrorCode::NameUnresolvable) };
    let (input, output, socket) = connect(at([a, b, c, d], port))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {name}\r\n\r\n");
    let mut said = Vec::new();
    if output.blocking_write_and_flush(request.as_bytes()).is_ok() {
        while let Ok(octets) = input.blocking_read(4096) {
            said.extend(octets);
        }
    }
    drop((input, output));
    drop(socket);
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// One line: the value, or the error by the name that the specification gives it.
fn tell<T: std::fmt::Debug>(what: &str, answer: Result<T, ErrorCode>) {
    match answer {
        Ok(value) => println!("{what}: {value:?}"),
        Err(code) => println!("{what}: {}", code.name()),
    }
}

fn at(octets: [u8; 4], port: u16) -> IpSocketAddress {
    let [a, b, c, d] = octets;
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
}

/// Asks until there is an answer.
fn wait<T>(
    pollable: &wasip2::io::poll::Pollable,
    ask: impl Fn() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match ask() {
            Err(ErrorCode::WouldBlock) => pollable.block(),
            answer => return answer,
        }
    }
}

type Connected = (wasip2::io::streams::InputStream, wasip2::io::streams::OutputStream, TcpSocket);

fn connect(address: IpSocketAddress) -> Result<Connected, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), address)?;
    let pollable = socket.subscribe();
    let (input, output) = wait(&pollable, || socket.finish_connect())?;
    Ok((input, output, socket))
}

/// What comes back, and how the connection ends.
fn tcp(port: u16) -> String {
    let (input, output, socket) = match connect(at([127, 0, 0, 1], port)) {
        Ok(connected) => connected,
        Err(code) => return code.name().to_owned(),
    };
    let again = socket
        .start_connect(&instance_network(), at([127, 0, 0, 1], port))
        .map_err(|code| code.name().to_owned());
    let sent = output.blocking_write_and_flush(b"hello").is_ok();
    let shut = socket.shutdown(ShutdownType::Send);
    let mut back = Vec::new();
    let end = loop {
        match input.blocking_read(64) {
            Ok(octets) => back.extend(octets),
            Err(StreamError::Closed) => break "closed",
            Err(StreamError::LastOperationFailed(_)) => break "failed",
        }
    };
    drop((input, output));
    format!(
        "connect again {again:?}, sent {sent}, shut {shut:?}, back {:?}, {end}",
        back.escape_ascii().to_string()
    )
}

fn listen() -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), at([127, 0, 0, 1], 0))?;
    let pollable = socket.subscribe();
    wait(&pollable, || socket.finish_bind())?;
    socket.start_listen()?;
    wait(&pollable, || socket.finish_listen())
}

type Datagrams = (UdpSocket, IncomingDatagramStream, OutgoingDatagramStream);

fn datagrams() -> Result<Datagrams, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), at([0, 0, 0, 0], 0))?;
    let pollable = socket.subscribe();
    wait(&pollable, || socket.finish_bind())?;
    drop(pollable);
    let (input, output) = socket.stream(None)?;
    Ok((socket, input, output))
}

fn udp(address: IpSocketAddress) -> Result<String, ErrorCode> {
    let (socket, input, output) = datagrams()?;
    output.subscribe().block();
    output.check_send()?;
    output.send(&[OutgoingDatagram { data: b"ping".to_vec(), remote_address: Some(address) }])?;
    input.subscribe().block();
    let back = input.receive(1)?;
    drop((input, output));
    drop(socket);
    Ok(back.iter().map(|datagram| datagram.data.escape_ascii().to_string()).collect())
}
