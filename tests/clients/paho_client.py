"""One MQTT client of the tests, on paho-mqtt: connects as the first line of standard input tells, does what each further line says,
and prints what comes of it, a line of JSON each. Knows nothing of Hearthkey beyond its address."""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

told = json.loads(sys.stdin.readline())
five = told["version"] == 5
printing = threading.Lock()


def show(**event):
    with printing:
        print(json.dumps(event), flush=True)


def code(reason_code):
    return reason_code.value if hasattr(reason_code, "value") else int(reason_code)


def on_connect(client, userdata, flags, reason_code, properties):
    if reason_code.is_failure:
        show(refused=code(reason_code), words=getattr(properties, "ReasonString", None))
    else:
        show(connected={"session_present": flags.session_present})


def on_disconnect(client, userdata, flags, reason_code, properties):
    by_hub = flags.is_disconnect_packet_from_server
    show(ended=code(reason_code) if by_hub else None, words=getattr(properties, "ReasonString", None))


def on_message(client, userdata, message):
    properties = getattr(message, "properties", None)
    correlation = getattr(properties, "CorrelationData", None)
    show(
        message={
            "topic": message.topic,
            "payload": message.payload.decode(),
            "qos": message.qos,
            "retain": message.retain,
            "expiry": getattr(properties, "MessageExpiryInterval", None),
            "response_topic": getattr(properties, "ResponseTopic", None),
            "correlation": correlation.decode() if correlation is not None else None,
        }
    )


def filled(packet_type, **values):
    """Properties of what is there; none in MQTT 3.1.1."""
    properties = Properties(packet_type)
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties if five else None


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id=told["client_id"],
    clean_session=None if five else told["clean"],
    protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
    transport="websockets" if "path" in told else "tcp",
    reconnect_on_failure=False,
)
if "path" in told:
    client.ws_set_options(path=told["path"])
client.tls_set(ca_certs=told["ca"])
client.username_pw_set(told["client_id"], told["password"])
if "will" in told:
    delayed = filled(PacketTypes.WILLMESSAGE, WillDelayInterval=told.get("will_delay"))
    client.will_set(told["will"], "offline", qos=1, retain=True, properties=delayed)
client.on_connect = on_connect
client.on_disconnect = on_disconnect
client.on_message = on_message
client.on_publish = lambda client, userdata, mid, reason_code, properties: show(published=code(reason_code))
client.on_subscribe = lambda client, userdata, mid, reason_codes, properties: show(subscribed=[code(each) for each in reason_codes])

kept = filled(PacketTypes.CONNECT, SessionExpiryInterval=told["session_expiry"])
client.connect(
    "localhost", told["port"], keepalive=30, **({"clean_start": told["clean"], "properties": kept} if five else {})
)
client.loop_start()
for line in sys.stdin:
    does = json.loads(line)
    if "publish" in does:
        correlation = does.get("correlation")
        properties = filled(
            PacketTypes.PUBLISH,
            MessageExpiryInterval=does.get("expiry"),
            TopicAlias=does.get("alias"),
            ResponseTopic=does.get("response_topic"),
            CorrelationData=correlation.encode() if correlation is not None else None,
        )
        client.publish(does["publish"], does["payload"], qos=does["qos"], retain=does["retain"], properties=properties)
    elif "subscribe" in does:
        client.subscribe(does["subscribe"], qos=does["qos"])
    elif "leave" in does:
        client.disconnect()
        client.loop_stop()
        break
