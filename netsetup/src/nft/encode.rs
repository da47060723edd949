//! The bytes of a transaction (linux/netfilter/nfnetlink.h, nf_tables.h).
//!
//! `netlink-packet-netfilter` types a third of the expressions that we need and takes the others as raw bytes; one small
//! writer for all of them is shorter than two ways of saying the same thing.

use super::{Base, Change, Element, Expression, Family, MetaKey, TABLE};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_MAP: u32 = 8;
const LOOKUP_INVERTED: u32 = 1;
const REGISTER_32_0: u32 = 8;
const REGISTER_VERDICT: u32 = 0;

/// One batch; every change is answered, in order, from sequence number 1 on.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, BATCH_BEGIN, REQUEST, 0, 0, SUBSYSTEM, |_| {});
    for (number, change) in (1..).zip(changes) {
        message(&mut out, number, change);
    }
    header(&mut out, BATCH_END, REQUEST, 0, 0, SUBSYSTEM, |_| {});
    out
}

fn message(out: &mut Vec<u8>, number: u32, change: &Change) {
    let mut send = |family: &Family, kind: u16, flags: u16, body: &dyn Fn(&mut Attributes<'_>)| {
        header(out, SUBSYSTEM << 8 | kind, REQUEST | ACK | flags, number, family_number(*family), 0, |out| {
            body(&mut Attributes(out));
        });
    };
    match change {
        Change::AddTable(family) => send(family, NEW_TABLE, CREATE, &|a| a.text(1, TABLE)),
        Change::DeleteTable(family) => send(family, DELETE_TABLE, 0, &|a| a.text(1, TABLE)),
        Change::AddChain { family, name, hook } => send(family, NEW_CHAIN, CREATE, &|a| {
            a.text(1, TABLE);
            a.text(3, name);
            a.nested(4, |a| {
                a.number(1, hook.number);
                a.bytes(2, &hook.priority.to_be_bytes());
            });
            a.text(7, hook.kind);
        }),
        Change::AddSet { family, set } => send(family, NEW_SET, CREATE, &|a| {
            a.text(1, TABLE);
            a.text(2, set.name);
            a.number(3, if set.data.is_some() { SET_MAP } else { 0 });
            a.number(4, set.key_type);
            a.number(5, set.key_len);
            if let Some((data_type, data_len)) = set.data {
                a.number(6, data_type);
                a.number(7, data_len);
            }
            a.number(10, set.id);
        }),
        Change::AddRule { family, chain, rule } => send(family, NEW_RULE, CREATE | APPEND, &|a| {
            a.text(1, TABLE);
            a.text(2, chain);
            a.nested(4, |a| rule.iter().for_each(|expression| write_expression(a, expression)));
        }),
        Change::AddElement { family, set, element } => {
            send(family, NEW_ELEMENT, CREATE, &|a| write_element(a, set, element));
        }
        Change::DeleteElement { family, set, element } => {
            send(family, DELETE_ELEMENT, 0, &|a| write_element(a, set, element));
        }
    }
}

fn write_element(a: &mut Attributes<'_>, set: &str, element: &Element) {
    a.text(1, TABLE);
    a.text(2, set);
    a.nested(3, |a| {
        a.nested(1, |a| {
            a.nested(1, |a| a.bytes(1, &element.key));
            if let Some(data) = &element.data {
                a.nested(2, |a| a.bytes(1, data));
            }
        });
    });
}

fn write_expression(a: &mut Attributes<'_>, expression: &Expression) {
    let mut named = |name: &str, data: &dyn Fn(&mut Attributes<'_>)| {
        a.nested(1, |a| {
            a.text(1, name);
            a.nested(2, |a| data(a));
        });
    };
    let register = |number: u32| REGISTER_32_0 + number;
    match expression {
        Expression::Meta { key, to } => named("meta", &|a| {
            a.number(1, register(*to));
            a.number(2, meta_number(*key));
        }),
        Expression::Payload { base, offset, len, to } => named("payload", &|a| {
            a.number(1, register(*to));
            a.number(2, base_number(*base));
            a.number(3, *offset);
            a.number(4, *len);
        }),
        Expression::Compare { register: from, equal, value } => named("cmp", &|a| {
            a.number(1, register(*from));
            a.number(2, u32::from(!equal));
            a.nested(3, |a| a.bytes(1, value));
        }),
        Expression::Mask { register: of, mask } => named("bitwise", &|a| {
            a.number(1, register(*of));
            a.number(2, register(*of));
            a.number(3, u32::try_from(mask.len()).unwrap_or(0));
            a.nested(4, |a| a.bytes(1, mask));
            a.nested(5, |a| a.bytes(1, &vec![0; mask.len()]));
        }),
        Expression::Load { to, value } => named("immediate", &|a| {
            a.number(1, register(*to));
            a.nested(2, |a| a.bytes(1, value));
        }),
        Expression::Lookup { set, set_id, register: from, to, inverted } => named("lookup", &|a| {
            a.text(1, set);
            a.number(2, register(*from));
            if let Some(to) = to {
                a.number(3, register(*to));
            }
            a.number(4, *set_id);
            a.number(5, if *inverted { LOOKUP_INVERTED } else { 0 });
        }),
        Expression::FibDestinationType { to } => named("fib", &|a| {
            a.number(1, register(*to));
            a.number(2, 3);
            a.number(3, 2);
        }),
        Expression::DestinationNat { v6, address, port } => named("nat", &|a| {
            a.number(1, 1);
            a.number(2, if *v6 { 10 } else { 2 });
            a.number(3, register(*address));
            a.number(5, register(*port));
        }),
        Expression::Masquerade => named("masq", &|_| {}),
        Expression::Drop => named("immediate", &|a| {
            a.number(1, REGISTER_VERDICT);
            a.nested(2, |a| a.nested(2, |a| a.number(1, 0)));
        }),
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Bridge => 7,
    }
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Protocol => 1,
        MetaKey::InputName => 6,
        MetaKey::OutputName => 7,
        MetaKey::NetworkProtocol => 15,
        MetaKey::TransportProtocol => 16,
    }
}

fn base_number(base: Base) -> u32 {
    match base {
        Base::Link => 0,
        Base::Network => 1,
        Base::Transport => 2,
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`, then what `body` writes.
fn header(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    number: u32,
    family: u8,
    resource: u16,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(number.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

/// Writes attributes (`struct nlattr`), each padded to four bytes.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |out| out.extend(value));
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |out| {
            out.extend(value.as_bytes());
            out.push(0);
        });
    }

    fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NESTED, |out| body(&mut Attributes(out)));
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        body(self.0);
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
