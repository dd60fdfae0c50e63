//! The LAN9118 network controller of the board, polled, as smoltcp's device (SMSC LAN9118 data sheet, rev. 1.5).
//! Knows nothing of what frames hold.

use crate::board::Register;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

const RX_DATA_FIFO: Register = Register::at(0x4020_0000);
const TX_DATA_FIFO: Register = Register::at(0x4020_0020);
const RX_STATUS_FIFO: Register = Register::at(0x4020_0040);
const TX_STATUS_FIFO: Register = Register::at(0x4020_0048);
const IRQ_CFG: Register = Register::at(0x4020_0054);
const INT_STS: Register = Register::at(0x4020_0058);
const INT_EN: Register = Register::at(0x4020_005c);
const TX_CFG: Register = Register::at(0x4020_0070);
const HW_CFG: Register = Register::at(0x4020_0074);
const RX_FIFO_INF: Register = Register::at(0x4020_007c);
const TX_FIFO_INF: Register = Register::at(0x4020_0080);
const MAC_CSR_CMD: Register = Register::at(0x4020_00a4);
const MAC_CSR_DATA: Register = Register::at(0x4020_00a8);

const MAC_CR: u32 = 1;
const MAC_ADDRH: u32 = 2;
const MAC_ADDRL: u32 = 3;

/// The longest frame without its checksum: 1024 bytes in TCP. Peers hear that, and send no larger segment.
pub const MAX_FRAME: usize = 14 + 20 + 20 + 1024;
/// Frames arrive at word boundaries, with a checksum.
const FRAME_WORDS: usize = (MAX_FRAME + 4).div_ceil(4);

/// The controller and a frame each way.
pub struct Ethernet {
    received: [u8; FRAME_WORDS * 4],
    to_send: [u8; FRAME_WORDS * 4],
}

impl Ethernet {
    /// The controller before its [`start`](Self::start).
    pub const fn new() -> Self {
        Self { received: [0; FRAME_WORDS * 4], to_send: [0; FRAME_WORDS * 4] }
    }

    /// Starts the controller; says its hardware address.
    pub fn start(&mut self) -> [u8; 6] {
        HW_CFG.write(1); // soft reset
        while HW_CFG.read() & 1 != 0 {}
        HW_CFG.write(1 << 20 | 5 << 16); // must be one; 5 KB to send from
        IRQ_CFG.write(1 << 8 | 1 << 4 | 1); // on, active high, push-pull
        INT_EN.write(1 << 3); // a frame came
        TX_CFG.write(1 << 1); // on
        mac_write(MAC_CR, mac_read(MAC_CR) | 1 << 3 | 1 << 2); // send, receive
        let [a, b, c, d] = mac_read(MAC_ADDRL).to_le_bytes();
        let [e, f, ..] = mac_read(MAC_ADDRH).to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Takes a frame from the controller; its length.
    fn take(&mut self) -> Option<usize> {
        INT_STS.write(1 << 3);
        while RX_FIFO_INF.read() >> 16 & 0xff != 0 {
            let status = RX_STATUS_FIFO.read();
            let length = (status >> 16 & 0x3fff) as usize;
            let has_error = status >> 15 & 1 != 0;
            for at in 0..length.div_ceil(4) {
                let word = RX_DATA_FIFO.read();
                if let Some(place) = self.received.get_mut(at * 4..at * 4 + 4) {
                    place.copy_from_slice(&word.to_le_bytes());
                }
            }
            if !has_error && (4..=MAX_FRAME + 4).contains(&length) {
                return Some(length - 4);
            }
        }
        None
    }
}

fn mac_command(command: u32) {
    MAC_CSR_CMD.write(command);
    while MAC_CSR_CMD.read() >> 31 != 0 {}
}

fn mac_read(register: u32) -> u32 {
    mac_command(1 << 31 | 1 << 30 | register);
    MAC_CSR_DATA.read()
}

fn mac_write(register: u32, value: u32) {
    MAC_CSR_DATA.write(value);
    mac_command(1 << 31 | register);
}

impl Device for Ethernet {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = ToSend<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, ToSend<'_>)> {
        let length = self.take()?;
        Some((Received(self.received.get(..length)?), ToSend(&mut self.to_send)))
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_>> {
        while TX_FIFO_INF.read() >> 16 & 0xff != 0 {
            let _ = TX_STATUS_FIFO.read(); // lost frames are TCP's affair
        }
        let free = (TX_FIFO_INF.read() & 0xffff) as usize;
        (free >= (FRAME_WORDS + 2) * 4).then_some(ToSend(&mut self.to_send))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities.max_burst_size = Some(1);
        capabilities
    }
}

/// A frame that came.
pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Room for a frame.
pub struct ToSend<'a>(&'a mut [u8; FRAME_WORDS * 4]);

impl TxToken for ToSend<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        // smoltcp asks for no more than the capabilities say.
        let filled = fill(&mut self.0[..length]);
        TX_DATA_FIFO.write(1 << 13 | 1 << 12 | length as u32); // first and last segment
        TX_DATA_FIFO.write(length as u32);
        for word in self.0[..length.next_multiple_of(4)].as_chunks::<4>().0 {
            TX_DATA_FIFO.write(u32::from_le_bytes(*word));
        }
        filled
    }
}
