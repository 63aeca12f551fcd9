//! Sockets.

use wasip3::clocks::monotonic_clock;
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_stream;

use crate::{Told, read};

/// Talks to a server at 127.0.0.1 and this port that sends back what it gets, by TCP and by UDP.
pub(crate) async fn report(port: u16, told: &mut Told) {
    told.answer("tcp", tcp(at([127, 0, 0, 1], port)).await);
    told.answer("tcp to another", tcp(at([127, 0, 0, 2], port)).await);
    told.answer("tcp to nowhere", tcp(at([0, 0, 0, 0], port)).await);
    told.answer("listen", listen());
    told.answer("udp", udp(at([127, 0, 0, 1], port)).await);
    told.answer("udp to another", udp(at([127, 0, 0, 2], port)).await);
    told.answer("name", resolve_addresses("no name".to_owned()).await.map(drop));
}

/// Sends so many octets to a server at 127.0.0.1 as fast as it may, by `tcp` or by `udp`, and then stays.
pub(crate) async fn flood(by: &str, port: u16, octets: usize) -> Result<(), ErrorCode> {
    let address = at([127, 0, 0, 1], port);
    if by == "tcp" {
        let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
        socket.connect(address).await?;
        let (mut writer, reader) = wit_stream::new();
        let sent = socket.send(reader);
        writer.write_all(vec![0; octets]).await;
        drop(writer);
        sent.await?;
    } else {
        let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
        socket.bind(at([0, 0, 0, 0], 0))?;
        for _ in 0..octets / 1000 {
            socket.send(vec![0; 1000], Some(address)).await?;
        }
    }
    monotonic_clock::wait_for(3_600_000_000_000).await;
    Ok(())
}

fn at([a, b, c, d]: [u8; 4], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
}

/// What comes back.
async fn tcp(address: IpSocketAddress) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(address).await?;
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(b"hello".to_vec()).await;
    drop(writer);
    sent.await?;
    let (back, end) = socket.receive();
    let back = read(back).await;
    end.await?;
    Ok(back.escape_ascii().to_string())
}

fn listen() -> Result<(), ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(at([127, 0, 0, 1], 0))?;
    socket.listen().map(drop)
}

async fn udp(address: IpSocketAddress) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(at([0, 0, 0, 0], 0))?;
    socket.send(b"ping".to_vec(), Some(address)).await?;
    let (back, _) = socket.receive().await?;
    Ok(back.escape_ascii().to_string())
}
