//! Marks of congestion (ECN, RFC 6040): a packet that can be marked travels in a datagram that can be marked, and what a router marks on
//! the datagram reaches the packet. With stock ends, which do not carry marks back, no datagram can be marked.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use interop::{data_channel, field, ping_both, session_end};
use lab::{
    Capture, CongestedRouter, Control, Lab, MARKED_PORT, Mark, Marked, Ocserv, Openconnect, PATIENCE, Ping, Process,
    STOCK_INTERFACE, Settings, Signal, StockFigures, StockLogin, client_interface, client_settings, eventually,
    gateway_settings, start_client, start_gateway, stock_addresses, stock_channel, until,
};
use platform::netns::Namespace;

/// The two bits of RFC 3168: not capable, ECT(1), ECT(0), and marked.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Lengths of datagrams by which they are told apart. Their records are longer by 66 to 95 bytes: two headers of the packet, and a record's own
/// header, id, nonce, kind and tag.
const SHORTEST: usize = 200;
const STEP: usize = 40;
const AROUND: std::ops::Range<usize> = 66..66 + STEP;

fn main() -> ExitCode {
    lab::run(
        &["tcpdump", "nft", "openconnect", "ocserv", "ocpasswd", "ip"],
        lab::tests![
            marks_reach_the_other_end_over_ipv4,
            marks_reach_the_other_end_over_ipv6,
            either_end_can_do_without_marks,
            a_stock_gateway_gets_no_datagram_with_a_mark,
            a_stock_client_gets_no_datagram_with_a_mark,
        ],
    )
}

fn marks_reach_the_other_end_over_ipv4(lab: &Lab) -> Result<()> {
    marks_reach_the_other_end(lab, |settings| settings)
}

fn marks_reach_the_other_end_over_ipv6(lab: &Lab) -> Result<()> {
    let gateway = lab.site().plan.gateway_v6().to_string();
    marks_reach_the_other_end(lab, |settings| settings.with("gateway.addresses", vec![gateway]))
}

fn marks_reach_the_other_end(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> Result<()> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let client = start_client(lab, lab.client(), "client", &change(client_settings(lab, lab.site())?))?;
    both_use_udp(lab, &gateway, &client)?;
    let sinks = (Marked::sink(lab.client())?, Marked::sink(&lab.site().lan)?);

    let eyes = Eyes::open(lab, &client_interface(lab.site()), "quiet")?;
    for (number, (flow, bits)) in every_mark(lab, addresses(lab)?)?.into_iter().enumerate() {
        let length = SHORTEST + number * STEP;
        flow.socket.send(length, bits)?;
        let found = (eyes.arrives(&flow, length)?, eyes.outside(length)?);
        ensure!(found == (bits, bits), "{}: {bits} became {found:?}", flow.what);
    }

    let _router = CongestedRouter::marking_all_udp(lab)?;
    let eyes = Eyes::open(lab, &client_interface(lab.site()), "congested")?;
    let mut lost = 0;
    for (number, (flow, bits)) in every_mark(lab, addresses(lab)?)?.into_iter().enumerate() {
        let length = SHORTEST + number * STEP;
        flow.socket.send(length, bits)?;
        if bits == NOT_ECT {
            // Order is kept: whatever arrives after this one shows that it does not.
            lost = length;
            continue;
        }
        let found = eyes.arrives(&flow, length)?;
        ensure!(
            found == CE,
            "{}: {bits} became {found} behind a congested router",
            flow.what
        );
        ensure!(
            eyes.seen(&flow, lost)?.is_none(),
            "{}: what cannot be marked got through",
            flow.what
        );
    }
    until("the client's count", PATIENCE, || {
        let status = Control::of(lab, lab.site().plan.name()).get("/v1/status")?;
        Ok(status["totals"]["packets_dropped_total"]["congestion"] == 2)
    })?;
    drop(sinks);
    ensure!(client.stop(Signal::TERM, PATIENCE)?.0.success());
    session_end(&gateway, "user_stop")?;
    let dropped = field(&gateway, Mark::default(), &["session.end"], "drops")?;
    ensure!(
        dropped.split_whitespace().any(|word| word == "congestion=2"),
        "the gateway counted {dropped}"
    );
    Ok(())
}

fn either_end_can_do_without_marks(lab: &Lab) -> Result<()> {
    for gateway_off in [true, false] {
        let off = |settings: Settings, off: bool| {
            if off {
                settings.with("dtls.ecn", false)
            } else {
                settings
            }
        };
        let settings = off(gateway_settings(lab, lab.site())?, gateway_off);
        let gateway = start_gateway(lab, lab.site(), "gateway", &settings)?;
        let settings = off(client_settings(lab, lab.site())?, !gateway_off);
        let client = start_client(lab, lab.client(), "client", &settings)?;
        both_use_udp(lab, &gateway, &client)?;
        let name = format!("gateway-{gateway_off}");
        let eyes = Eyes::open(lab, &client_interface(lab.site()), &name)?;
        no_mark_outside(lab, &eyes, addresses(lab)?, true)?;
        client.stop(Signal::TERM, PATIENCE)?;
        gateway.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(())
}

fn a_stock_gateway_gets_no_datagram_with_a_mark(lab: &Lab) -> Result<()> {
    let mut stock = Ocserv::configure(lab, lab.site(), StockLogin::Password, StockFigures::Quick)?;
    let _gateway = stock.start()?;
    let client = start_client(lab, lab.client(), "client", &client_settings(lab, lab.site())?)?;
    data_channel(&client, Mark::default())?;
    until("the gateway's word for it", PATIENCE, || Ok(stock.channel()?.is_some()))?;
    ping_both(lab.client(), lab.site().plan)?;
    let eyes = Eyes::open(lab, &client_interface(lab.site()), "stock-gateway")?;
    no_mark_outside(lab, &eyes, addresses(lab)?, false)
}

fn a_stock_client_gets_no_datagram_with_a_mark(lab: &Lab) -> Result<()> {
    let gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let stock = Openconnect::new(lab, lab.client(), lab.site(), "openconnect")?;
    let client = stock.good_password().with_dtls().up()?;
    stock_channel(&client)?;
    Ping::new(lab.client(), lab.site().plan.host_v4()).answered(PATIENCE)?;
    data_channel(&gateway, Mark::default())?;
    let eyes = Eyes::open(lab, STOCK_INTERFACE, "stock-client")?;
    no_mark_outside(lab, &eyes, addresses_in(&stock_addresses(&client)?), true)
}

/// Packets that can be marked arrive as they were, in datagrams that cannot. `down` tries the way to the client as well.
fn no_mark_outside(lab: &Lab, eyes: &Eyes, addresses: Vec<IpAddr>, down: bool) -> Result<()> {
    let _sinks = (Marked::sink(lab.client())?, Marked::sink(&lab.site().lan)?);
    let flows = every_mark(lab, addresses)?;
    let wanted = flows.into_iter().filter(|(flow, _)| flow.up || down);
    for (number, (flow, bits)) in wanted.enumerate() {
        let length = SHORTEST + number * STEP;
        flow.socket.send(length, bits)?;
        let found = (eyes.arrives(&flow, length)?, eyes.outside(length)?);
        ensure!(found == (bits, NOT_ECT), "{}: {bits} became {found:?}", flow.what);
    }
    Ok(())
}

/// Datagrams from one host to another, through the tunnel.
#[derive(Clone)]
struct Flow {
    what: String,
    up: bool,
    socket: std::rc::Rc<Marked>,
}

/// Each mark, each way, over both families, with what cannot be marked first.
fn every_mark(lab: &Lab, client: Vec<IpAddr>) -> Result<Vec<(Flow, u8)>> {
    let plan = lab.site().plan;
    ensure!(client.len() == 2, "the client has {client:?}");
    let up = [IpAddr::from(plan.host_v4()), plan.host_v6().into()].map(|to| (true, lab.client(), to));
    let down = client.into_iter().map(|to| (false, &lab.site().lan, to));
    let mut all = Vec::new();
    for (up, from, to) in up.into_iter().chain(down) {
        let flow = Flow {
            what: format!("to {to}"),
            up,
            socket: Marked::new(from, to)?.into(),
        };
        all.extend([NOT_ECT, ECT_1, ECT_0, CE].map(|bits| (flow.clone(), bits)));
    }
    Ok(all)
}

/// What is seen of datagrams.
struct Eyes {
    /// On the client's cable.
    outside: Capture,
    /// Out of the tunnel, at the client.
    client: Capture,
    /// Out of the tunnel, in the LAN.
    lan: Capture,
}

impl Eyes {
    fn open(lab: &Lab, interface: &str, name: &str) -> Result<Self> {
        let inside = format!("udp dst port {MARKED_PORT}");
        let eye = |host: &Namespace, device: &str, matches: &str, place: &str| {
            Capture::start(lab, host, device, matches, &format!("{name}-{place}"))
        };
        Ok(Self {
            outside: eye(lab.client(), "eth0", "udp", "outside")?,
            client: eye(lab.client(), interface, &inside, "client")?,
            lan: eye(&lab.site().lan, "eth0", &inside, "lan")?,
        })
    }

    /// The mark with which a datagram of this length comes out of the tunnel, if it did.
    fn seen(&self, flow: &Flow, length: usize) -> Result<Option<u8>> {
        let eye = if flow.up { &self.lan } else { &self.client };
        let all = eye.datagrams()?;
        let found = all.iter().find(|datagram| datagram.payload.len() == length);
        Ok(found.map(|datagram| datagram.ecn))
    }

    fn arrives(&self, flow: &Flow, length: usize) -> Result<u8> {
        let what = format!("{} bytes {}", length, flow.what);
        eventually(&what, PATIENCE, || self.seen(flow, length))
    }

    /// The mark of the record that carries it.
    fn outside(&self, length: usize) -> Result<u8> {
        eventually(&format!("the record of {length} bytes"), PATIENCE, || {
            let all = self.outside.datagrams()?;
            let record = |payload: &[u8]| {
                payload
                    .len()
                    .checked_sub(length)
                    .is_some_and(|more| AROUND.contains(&more))
            };
            Ok(all
                .iter()
                .find(|datagram| record(&datagram.payload))
                .map(|datagram| datagram.ecn))
        })
    }
}

/// The client's addresses in the tunnel.
fn addresses(lab: &Lab) -> Result<Vec<IpAddr>> {
    let status = Control::of(lab, lab.site().plan.name()).get("/v1/status")?;
    let addresses = status["tunnel"]["addresses"]
        .as_array()
        .context("a tunnel has addresses")?;
    let words: Vec<&str> = addresses.iter().filter_map(|address| address.as_str()).collect();
    Ok(addresses_in(&words.join(" ")))
}

fn addresses_in(words: &str) -> Vec<IpAddr> {
    let bare = words.split(' ').map(|word| word.split('/').next().unwrap_or_default());
    bare.filter_map(|word| word.parse().ok()).collect()
}

/// Packets take the data channel both ways.
fn both_use_udp(lab: &Lab, gateway: &Process, client: &Process) -> Result<()> {
    data_channel(client, Mark::default())?;
    data_channel(gateway, Mark::default())?;
    ping_both(lab.client(), lab.site().plan)
}
