"""The XMPP connector: devices that write chat messages, and sensors and actuators that are asked (docs/xmpp.md)."""
