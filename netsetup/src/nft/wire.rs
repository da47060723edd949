//! Renders operations as one batch of netlink messages, which the kernel applies whole or not at all.

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook as HookAttribute, HookNumber,
    Immediate, InetHookNumber, ListAttribute, Lookup, Meta as MetaAttribute, MetaKey, NfTablesMessage, Operator,
    Payload, Register, RuleAttribute, RuleMessage, SetAttribute, SetDescription, SetElementAttribute, SetElementList,
    SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict as VerdictCode, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::{Chain, Elements, Expr, Family, Hook, Kind, Meta, Op, PayloadBase, Reg, Set, Table, Type, Value, Verdict};

/// `NFNL_SUBSYS_NFTABLES`: whom a batch is for.
const SUBSYSTEM: u16 = 10;
/// Elements of one message, so that its attribute stays below the 64 KiB that a length field can say.
pub const ELEMENTS_PER_MESSAGE: usize = 256;
/// The wire numbers of 32-bit registers begin here (`NFT_REG32_00`).
const FIRST_REGISTER: u32 = 8;
/// `NF_DROP`, `NF_ACCEPT`
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// The whole batch. The first message's sequence number is `sequence`, the others count up; only the last operation asks
/// for an acknowledgement, errors come unasked.
#[must_use]
pub fn batch(ops: &[Op], sequence: u32) -> Vec<NetlinkMessage<NetfilterMessage>> {
    let mut inner: Vec<(Family, NfTablesMessage, u16)> = ops.iter().flat_map(messages).collect();
    if let Some((_, _, flags)) = inner.last_mut() {
        *flags |= NLM_F_ACK;
    }
    let begin = control(ControlMessage::BatchBegin);
    let end = control(ControlMessage::BatchEnd);
    let middle = inner.into_iter().map(|(family, message, flags)| {
        let header = NetfilterHeader::new(protocol_family(family), 0, 0);
        netlink(NetfilterMessage::new(header, message), NLM_F_REQUEST | flags)
    });
    let mut batch: Vec<_> = std::iter::once(begin).chain(middle).chain(std::iter::once(end)).collect();
    for (message, number) in batch.iter_mut().zip(sequence..) {
        message.header.sequence_number = number;
    }
    batch
}

fn netlink(message: NetfilterMessage, flags: u16) -> NetlinkMessage<NetfilterMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    message
}

fn control(message: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    netlink(NetfilterMessage::new(header, NetfilterMessageInner::None(message)), NLM_F_REQUEST)
}

fn protocol_family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Bridge => NetfilterProtoFamily::Bridge,
    }
}

fn messages(op: &Op) -> Vec<(Family, NfTablesMessage, u16)> {
    let one = |table: &Table, message, flags| vec![(table.family, message, flags)];
    match op {
        Op::AddTable(table) => one(table, NfTablesMessage::NewTable(table_message(table)), NLM_F_CREATE),
        Op::DeleteTable(table) => one(table, NfTablesMessage::DeleteTable(table_message(table)), 0),
        Op::AddSet(table, set) => one(table, NfTablesMessage::NewSet(set_message(table, set)), NLM_F_CREATE),
        Op::AddChain(table, chain) => one(table, NfTablesMessage::NewChain(chain_message(table, chain)), NLM_F_CREATE),
        Op::AddRule(table, chain, rule) => {
            one(table, NfTablesMessage::NewRule(rule_message(table, chain, rule)), NLM_F_CREATE | NLM_F_APPEND)
        }
        Op::AddElements(elements) => element_messages(elements)
            .map(|message| (elements.table.family, NfTablesMessage::NewSetElement(message), NLM_F_CREATE))
            .collect(),
        Op::DeleteElements(elements) => element_messages(elements)
            .map(|message| (elements.table.family, NfTablesMessage::DeleteSetElement(message), 0))
            .collect(),
    }
}

fn table_message(table: &Table) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(table.name.clone())] }
}

fn set_message(table: &Table, set: &Set) -> SetMessage {
    let mut flags = SetFlags::empty();
    if !set.data.is_empty() {
        flags |= SetFlags::Map;
    }
    if set.key.len() > 1 {
        flags |= SetFlags::Concat;
    }
    let mut attributes = vec![
        SetAttribute::Table(table.name.clone()),
        SetAttribute::Name(set.name.to_owned()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(type_number(set.key)),
        SetAttribute::KeyLen(length(set.key)),
        // The kernel wants a number to find sets of one transaction by; names are enough for us.
        SetAttribute::Id(1),
    ];
    if set.key.len() > 1 {
        attributes.push(SetAttribute::Description(vec![SetDescription::Concat(fields(set.key))]));
    }
    if !set.data.is_empty() {
        attributes.extend([SetAttribute::DataType(type_number(set.data)), SetAttribute::DataLen(length(set.data))]);
    }
    SetMessage { attributes }
}

/// The length of each field: a list of elements, each of which holds one number.
fn fields(types: &[Type]) -> Vec<DefaultNla> {
    let field = |kind: &Type| {
        let length = DefaultNla::new(1, kind.length().to_be_bytes().to_vec());
        let mut bytes = vec![0; length.buffer_len()];
        length.emit(&mut bytes);
        DefaultNla::new(1 | NLA_F_NESTED, bytes)
    };
    types.iter().map(field).collect()
}

/// nft packs the types of a concatenation six bits each.
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |packed, next| packed << 6 | next.number())
}

fn length(types: &[Type]) -> u32 {
    types.iter().map(|kind| kind.length().next_multiple_of(4)).sum()
}

fn chain_message(table: &Table, chain: &Chain) -> ChainMessage {
    let mut attributes = vec![ChainAttribute::Table(table.name.clone()), ChainAttribute::Name(chain.name.to_owned())];
    if let Some(base) = chain.base {
        let number = match base.hook {
            Hook::Prerouting => InetHookNumber::PreRouting,
            Hook::Input => InetHookNumber::LocalIn,
            Hook::Output => InetHookNumber::LocalOut,
            Hook::Postrouting => InetHookNumber::PostRouting,
        };
        let kind = match base.kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        attributes.extend([
            ChainAttribute::Hook(vec![
                HookAttribute::Number(HookNumber::Inet(number)),
                HookAttribute::Priority(base.priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(kind.to_owned()),
        ]);
    }
    ChainMessage { attributes }
}

fn rule_message(table: &Table, chain: &str, rule: &[Expr]) -> RuleMessage {
    let expressions = rule.iter().map(|expr| expression(expr).into()).collect();
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.name.clone()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ],
    }
}

fn element_messages(elements: &Elements) -> impl Iterator<Item = SetElementMessage> {
    elements.elements.chunks(ELEMENTS_PER_MESSAGE).map(|chunk| {
        let list = chunk.iter().map(|element| {
            let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(packed(&element.key)))];
            if !element.data.is_empty() {
                attributes.push(SetElementAttribute::Data(DataAttribute::Value(packed(&element.data))));
            }
            ListAttribute::Element(attributes)
        });
        SetElementMessage {
            attributes: vec![
                SetElementList::Table(elements.table.name.clone()),
                SetElementList::Set(elements.set.to_owned()),
                SetElementList::Elements(list.collect()),
            ],
        }
    })
}

/// Fields one after the other, each filled up to whole registers.
fn packed(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        match value {
            Value::Ipv4(address) => bytes.extend(address.octets()),
            Value::Ipv6(address) => bytes.extend(address.octets()),
            Value::Ether(mac) => bytes.extend(mac.0),
            Value::Protocol(protocol) => bytes.push(protocol.number()),
            Value::Service(port) => bytes.extend(port.to_be_bytes()),
            Value::Ifname(name) => {
                let end = bytes.len() + 16;
                bytes.extend(name.bytes().take(15));
                bytes.resize(end, 0);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn register(register: Reg) -> Register {
    Register::Other(FIRST_REGISTER + register.0)
}

fn expression(expr: &Expr) -> Expressions {
    match expr {
        Expr::Meta(key, to) => Expressions::Meta(vec![
            MetaAttribute::DestinationRegister(register(*to)),
            MetaAttribute::Key(meta_key(*key)),
        ]),
        Expr::Payload { base, offset, length, to } => Expressions::Payload(vec![
            Payload::DestinationRegister(register(*to)),
            Payload::Base(payload_base(*base)),
            Payload::Offset(*offset),
            Payload::Len(*length),
        ]),
        // Destination register, result "address type", flag "by destination address".
        Expr::FibDaddrType(to) => other("fib", &[(1, number(register(*to))), (2, 3), (3, 2)]),
        // Destination register, key "status".
        Expr::CtStatus(to) => other("ct", &[(1, number(register(*to))), (2, 2)]),
        Expr::Mask { register: both, mask } => Expressions::Bitwise(vec![
            Bitwise::SourceRegister(register(*both)),
            Bitwise::DestinationRegister(register(*both)),
            Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
            Bitwise::Mask(DataAttribute::Value(mask.clone())),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        ]),
        Expr::Compare { register: from, equal, value } => Expressions::Cmp(vec![
            Cmp::SourceRegister(register(*from)),
            Cmp::Op(if *equal { Operator::Equal } else { Operator::NotEqual }),
            Cmp::Data(DataAttribute::Value(value.clone())),
        ]),
        Expr::Lookup { set, from, to, found } => lookup(set, *from, *to, *found),
        // Type "destination", family, registers of address and port.
        Expr::Dnat { v6, address, port } => other(
            "nat",
            &[(1, 1), (2, if *v6 { 10 } else { 2 }), (3, number(register(*address))), (5, number(register(*port)))],
        ),
        Expr::Masquerade => other("masq", &[]),
        Expr::Verdict(verdict) => verdict_expression(*verdict),
    }
}

fn lookup(set: &str, from: Reg, to: Option<Reg>, found: bool) -> Expressions {
    let mut attributes = vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(register(from))];
    attributes.extend(to.map(|to| Lookup::DestinationRegister(register(to))));
    if !found {
        attributes.push(Lookup::Flags(1));
    }
    Expressions::Lookup(attributes)
}

/// An expression that the crate has no type for: its attributes are all 32-bit numbers.
fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let attributes =
        attributes.iter().map(|(kind, value)| DefaultNla::new(*kind, value.to_be_bytes().to_vec())).collect();
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn number(register: Register) -> u32 {
    register.into()
}

fn meta_key(key: Meta) -> MetaKey {
    match key {
        Meta::Iifname => MetaKey::Iifname,
        Meta::Oifname => MetaKey::Oifname,
        Meta::Nfproto => MetaKey::Nfproto,
        Meta::L4proto => MetaKey::L4Proto,
    }
}

fn payload_base(base: PayloadBase) -> u32 {
    match base {
        PayloadBase::Link => 0,
        PayloadBase::Network => 1,
        PayloadBase::Transport => 2,
    }
}

fn verdict_expression(verdict: Verdict) -> Expressions {
    let attributes = match verdict {
        Verdict::Accept => vec![VerdictAttribute::Code(VerdictCode::Other(ACCEPT))],
        Verdict::Drop => vec![VerdictAttribute::Code(VerdictCode::Other(DROP))],
        Verdict::Return => vec![VerdictAttribute::Code(VerdictCode::Return)],
        Verdict::Jump(chain) => {
            vec![VerdictAttribute::Code(VerdictCode::Jump), VerdictAttribute::Chain(chain.to_owned())]
        }
    };
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}
