//! One conversation with the kernel over netlink.
//!
//! The kernel handles a request inside `send(2)`: when the call returns, all answers are waiting. So there is nothing to
//! wait for and no event loop here; several requests go in one datagram, and what isn't there afterwards never comes.

use std::io;

use netlink_packet_core::{
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkSerializable,
};
use netlink_sys::Socket;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Room for one datagram of answers; the kernel fills at most 32 KiB while it dumps.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for the answers that one request leaves behind.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;
/// Room for one request: a ruleset with a thousand pods.
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What the kernel said about the message with this sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) sequence: u32,
    pub(crate) result: Result<(), Errno>,
}

/// A socket that belongs to the network namespace of the thread that opened it, for ever.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    next: u32,
    received: Vec<u8>,
}

impl Conversation {
    /// `protocol` is `NETLINK_ROUTE` or `NETLINK_NETFILTER`.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // An error comes back without the request that it is about; we know what we asked.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, next: 1, received: vec![0; RECEIVE_BYTES] })
    }

    /// For a conversation with long requests. What the host's limit doesn't allow is cut by the kernel, silently.
    pub(crate) fn enlarge(&self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, SEND_BUFFER_BYTES)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.socket, RECEIVE_BUFFER_BYTES)?;
        Ok(())
    }

    /// Sequence numbers for so many messages.
    pub(crate) fn numbers(&mut self, count: usize) -> u32 {
        let first = self.next;
        // Zero is what the kernel uses for what nobody asked for.
        self.next = first.checked_add(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(1);
        first
    }

    /// Sends all messages in one call and returns every answer to them.
    pub(crate) fn transact<M: NetlinkSerializable>(
        &mut self,
        messages: &[NetlinkMessage<M>],
    ) -> io::Result<Vec<Answer>> {
        self.send(messages)?;
        let mut answers = Vec::new();
        self.receive(|kind, sequence, payload| {
            if kind == NLMSG_ERROR {
                answers.push(Answer { sequence, result: error_of(payload) });
            }
            true
        })?;
        Ok(answers)
    }

    /// Sends one request and returns the messages that answer it; a dump to its end.
    pub(crate) fn ask<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        request: &NetlinkMessage<M>,
    ) -> io::Result<Vec<M>> {
        self.send(std::slice::from_ref(request))?;
        let mut found = Vec::new();
        let mut failed = Ok(());
        self.receive(|kind, _, payload| {
            if kind == NLMSG_ERROR {
                failed = failed.and(error_of(payload));
            } else if kind != NLMSG_DONE && kind != NLMSG_NOOP {
                // What this version of the crate can't read is nothing that we look for.
                let mut header = netlink_packet_core::NetlinkHeader::default();
                header.message_type = kind;
                found.extend(M::deserialize(&header, payload));
            }
            kind != NLMSG_DONE
        })?;
        failed?;
        Ok(found)
    }

    fn send<M: NetlinkSerializable>(&mut self, messages: &[NetlinkMessage<M>]) -> io::Result<()> {
        let length = messages.iter().map(|message| message.buffer_len().next_multiple_of(4)).sum();
        let mut bytes = vec![0; length];
        let mut rest = bytes.as_mut_slice();
        for message in messages {
            let (this, after) = rest.split_at_mut(message.buffer_len().next_multiple_of(4));
            message.serialize(this);
            rest = after;
        }
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Calls `each` with type, sequence number and payload of every message until it says no or none is left.
    fn receive(&mut self, mut each: impl FnMut(u16, u32, &[u8]) -> bool) -> io::Result<()> {
        loop {
            let length = match rustix::net::recv(&self.socket, self.received.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = self.received.get(..length).unwrap_or_default();
            while let Ok(message) = NetlinkBuffer::new_checked(rest) {
                if !each(message.message_type(), message.sequence_number(), message.payload()) {
                    return Ok(());
                }
                let used = (message.length() as usize).next_multiple_of(4);
                rest = rest.get(used..).unwrap_or_default();
            }
        }
    }
}

/// The first four octets of an error message: zero, or minus the error number.
fn error_of(payload: &[u8]) -> Result<(), Errno> {
    let code = payload.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.saturating_neg())) }
}
