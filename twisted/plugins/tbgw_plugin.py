"""Tells twistd that there is a `tbgw` service. Imports nothing of tbgw, so that other twistd commands stay fast."""

from twisted.application.service import ServiceMaker

tbgw = ServiceMaker("tbgw", "tbgw.tap", "A ThingsBoard gateway: sockets, XMPP and OCPP in, MQTT out", "tbgw")
