//! The names in the kernel's nftables, read by netlink, since the small machine has no `nft`.

use anyhow::{Context as _, Result, bail};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The message types of `linux/netfilter/nf_tables.h`: a kind, its GET request, and the attributes that name an object.
const KINDS: &[(&str, u8, &[u16])] =
    &[("table", 1, &[1]), ("chain", 4, &[1, 3]), ("rule", 7, &[1, 2, 3]), ("set", 10, &[1, 2])];
/// `NFTA_RULE_HANDLE`, the only one of [`KINDS`]' attributes that is a number.
const RULE_HANDLE: u16 = 3;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 16 + 4;

/// Every table, chain, rule and set, one line each.
pub fn objects() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (kind, request, names) in KINDS {
        let found = dump(*request).with_context(|| format!("dump nftables' {kind}s"))?;
        all.extend(found.iter().map(|attributes| format!("nft {kind} {}", named(kind, attributes, names))));
    }
    Ok(all)
}

fn named(kind: &str, attributes: &[u8], names: &[u16]) -> String {
    let words = names.iter().filter_map(|name| {
        let value = attribute(attributes, *name)?;
        if kind == "rule" && *name == RULE_HANDLE {
            return Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?).to_string());
        }
        Some(String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The attributes of every object of one kind.
fn dump(request: u8) -> Result<Vec<Vec<u8>>> {
    let socket = open()?;
    let mut message = Vec::with_capacity(HEADERS);
    message.extend(u32::try_from(HEADERS)?.to_ne_bytes());
    message.extend([request, NFNL_SUBSYS_NFTABLES]);
    message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 12]);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).context("send")?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (read, _) = rustix::net::recv(&socket, &mut *buffer, RecvFlags::empty()).context("receive")?;
        if collect(buffer.get(..read).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// True at the dump's end.
fn collect(mut bytes: &[u8], found: &mut Vec<Vec<u8>>) -> Result<bool> {
    while let Some(length) = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let message = bytes.get(..length).context("a message that is cut off")?;
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => bail!("netlink error {}", u32_at(message, 16).unwrap_or(0).cast_signed()),
            _ => found.push(message.get(HEADERS..).unwrap_or_default().to_vec()),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        if u16_at(bytes, 2)? & 0x3fff == kind {
            return bytes.get(4..length);
        }
        bytes = bytes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Makes an empty table of the family `inet`.
pub fn add_table(name: &str) -> Result<()> {
    const BATCH_BEGIN: u16 = 0x10;
    const BATCH_END: u16 = 0x11;
    const NEWTABLE: u16 = (NFNL_SUBSYS_NFTABLES as u16) << 8;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_CREATE_ACK: u16 = 0x405;
    const INET: u8 = 1;
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    let mut table = u16::try_from(value.len() + 4)?.to_ne_bytes().to_vec();
    table.extend(1_u16.to_ne_bytes());
    table.extend(value);
    table.resize(table.len().next_multiple_of(4), 0);
    let message = |kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]| {
        let mut message = u32::try_from(HEADERS + attributes.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0]);
        message.extend(resource.to_be_bytes());
        message.extend(attributes);
        message
    };
    let nftables = u16::from(NFNL_SUBSYS_NFTABLES);
    let batch = [
        message(BATCH_BEGIN, NLM_F_REQUEST, 0, nftables, &[]),
        message(NEWTABLE, NLM_F_CREATE_ACK, INET, 0, &table),
        message(BATCH_END, NLM_F_REQUEST, 0, nftables, &[]),
    ]
    .concat();
    let socket = open()?;
    rustix::net::sendto(&socket, &batch, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).context("send")?;
    let mut answer = vec![0; 4096];
    let (read, _) = rustix::net::recv(&socket, &mut *answer, RecvFlags::empty()).context("receive")?;
    match answer.get(..read).and_then(|answer| u32_at(answer, HEADERS - 4)) {
        Some(0) => Ok(()),
        error => bail!("add table {name}: {:?}", error.map(u32::cast_signed)),
    }
}

fn open() -> Result<std::os::fd::OwnedFd> {
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
        .context("socket(AF_NETLINK, NETLINK_NETFILTER)")
}
