//! What the device gave in one read, on its way to a session: one packet, or several of one flow.

use packet::virtio::Offload;
use packet::{DropReason, Segments, virtio};

use crate::buffer::{Buffer, Freight, Pool};
use crate::queue::Weighs;

/// See the module.
#[derive(Debug)]
pub(crate) struct Load {
    buffer: Buffer,
    /// The packet stands behind the header of a device with offloads.
    has_header: bool,
    /// Packets that went their way already.
    done: usize,
}

impl Load {
    /// One packet without a header.
    pub(crate) fn plain(packet: Buffer) -> Self {
        Self {
            buffer: packet,
            has_header: false,
            done: 0,
        }
    }

    /// A read of a device with offloads.
    pub(crate) fn with_header(read: Buffer) -> Self {
        Self {
            buffer: read,
            has_header: true,
            done: 0,
        }
    }

    /// The packet as the device has it.
    pub(crate) fn packet(&self) -> &[u8] {
        match self.has_header {
            true => self.buffer.get(virtio::LENGTH..).unwrap_or_default(),
            false => &self.buffer,
        }
    }

    /// The packets for the network that have not gone yet.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]
    pub(crate) fn segments(&self) -> Result<Segments<'_>, DropReason> {
        let mut segments = match self.has_header {
            true => {
                let (offload, packet) = Offload::split(&self.buffer)?;
                Segments::new(&offload, packet)?
            }
            false => Segments::plain(&self.buffer)?,
        };
        segments.skip(self.done);
        Ok(segments)
    }

    /// This many more packets have gone.
    pub(crate) fn gone(mut self, packets: usize) -> Self {
        self.done += packets;
        self
    }

    /// How many packets; what cannot be cut is one.
    pub(crate) fn count(&self) -> usize {
        self.segments().map_or(1, |segments| segments.left())
    }
}

/// A load on its way to another worker.
#[derive(Debug)]
pub(crate) struct LoadFreight {
    buffer: Freight,
    has_header: bool,
    done: usize,
}

impl Load {
    /// For another worker: nothing is copied.
    pub(crate) fn into_freight(self) -> LoadFreight {
        LoadFreight {
            buffer: self.buffer.into_freight(),
            has_header: self.has_header,
            done: self.done,
        }
    }
}

impl LoadFreight {
    /// The load, where it has arrived.
    pub(crate) fn unload(self, pool: &Pool) -> Load {
        Load {
            buffer: self.buffer.unload(pool),
            has_header: self.has_header,
            done: self.done,
        }
    }
}

impl Weighs for LoadFreight {
    fn kept(&self) -> usize {
        self.buffer.kept()
    }
}

impl Weighs for Load {
    fn kept(&self) -> usize {
        self.buffer.kept()
    }
}
