//! Options of every TCP socket: small messages leave at once, a cut network is noticed.

use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::TcpStream;

/// After so much silence a probe is sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// After so many unanswered probes the connection ends.
const KEEPALIVE_PROBES: u32 = 3;
/// Sent data that is not acknowledged for so long ends the connection. That includes a peer that
/// lives but reads nothing for so long.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Sets the options of a connected socket.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = stream.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    let millis = u32::try_from(USER_TIMEOUT.as_millis()).expect("15,000 fits");
    sockopt::set_tcp_user_timeout(socket, millis)?;
    Ok(())
}
