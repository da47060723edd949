//! One message and its descriptors per packet, for both sides of a connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The kernel passes no more descriptors in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;
/// Largest message. Plans travel in memfds, so a request is small; a snapshot of a hundred containers fits.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Sends one packet; `WouldBlock` when the other side does not read.
pub fn send(socket: BorrowedFd<'_>, text: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || text.len() > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(text)], &mut control, flags)?;
    Ok(())
}

/// Receives one packet into `buffer`; `WouldBlock` when there is none. A length of 0 is the end of the connection. A packet
/// that does not fit is `InvalidData`.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_packet_brings_its_text_and_as_many_descriptors_as_the_kernel_allows() {
        let (one, two) = pair();
        let fds = vec![one.as_fd(); MAX_FDS];
        send(one.as_fd(), b"text", &fds).unwrap();
        let mut buffer = [0; 16];
        let (length, received) = receive(two.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], received.len()), (&b"text"[..], MAX_FDS));
        assert!(send(one.as_fd(), b"", &[fds, vec![one.as_fd()]].concat()).is_err());
    }

    #[test]
    fn a_packet_larger_than_the_buffer_is_refused() {
        let (one, two) = pair();
        send(one.as_fd(), b"long text", &[]).unwrap();
        assert_eq!(receive(two.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(two.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
