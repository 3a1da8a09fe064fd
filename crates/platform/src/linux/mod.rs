//! Linux: the system this program is made for; every ability is here.

pub(crate) mod capabilities;
pub(crate) mod cgroup;
pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod conntrack;
pub(crate) mod disk;
pub(crate) mod dns;
pub(crate) mod files;
pub(crate) mod firewall;
pub(crate) mod listen;
pub(crate) mod netns;
pub(crate) mod network;
pub(crate) mod power;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod slot;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod tun;
pub(crate) mod udp;
pub(crate) mod users;
pub(crate) mod watch;
