//! The MQTT front: terminates MQTT 3.1.1 and 5, authorizes each CONNECT, PUBLISH, SUBSCRIBE and delivery, and keeps sessions.
//! Knows nothing of tokens, the registry or files: it asks a [`gate::Gate`].

pub mod gate;
pub mod limits;
pub mod message;
pub mod packet;
