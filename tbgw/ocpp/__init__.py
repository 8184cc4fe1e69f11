"""OCPP-J from the Central System's side, as a library: it knows its protocol and nothing of the gateway.

The heavy parts are imported where they are used: `protocol` needs Autobahn, `schemas` needs the packages ocpp (as data)
and fastjsonschema.
"""
