"""A door before a broker: it speaks TLS, and asks who comes in by SASL (PLAIN and SCRAM-SHA-256).

python kafka_door.py BROKER_PORT CERTIFICATE KEY USER PASSWORD   prints its port

Behind the door everything is passed on; in what the broker tells of itself the door's port stands for its own, so that
clients come through the door again. Requests before the login, other than those that lead to it, end the connection.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import ssl
import struct
import sys

BROKER, USER, PASSWORD = int(sys.argv[1]), sys.argv[4], sys.argv[5]
API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
DENIED = 58
ROUNDS = 4096


async def frame(reader):
    return await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])


async def send(writer, body):
    writer.write(struct.pack(">i", len(body)) + body)
    await writer.drain()


def plain(sent):
    yield (b"" if sent.split(b"\0")[1:] == [USER.encode(), PASSWORD.encode()] else None)


def scram(sent):
    bare = sent.decode().split(",", 2)[2]
    asked = dict(part.split("=", 1) for part in bare.split(","))
    nonce, salt = asked["r"] + base64.b64encode(os.urandom(12)).decode(), os.urandom(12)
    first = f"r={nonce},s={base64.b64encode(salt).decode()},i={ROUNDS}"
    final = (yield first.encode()).decode()
    without_proof, proof = final.rsplit(",p=", 1)
    mac = lambda key, text: hmac.new(key, text, hashlib.sha256).digest()
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, ROUNDS)
    key = mac(salted, b"Client Key")
    said = f"{bare},{first},{without_proof}".encode()
    signature = mac(hashlib.sha256(key).digest(), said)
    expected = bytes(a ^ b for a, b in zip(key, signature))
    right = asked["n"] == USER and base64.b64decode(proof) == expected
    yield b"v=" + base64.b64encode(mac(mac(salted, b"Server Key"), said)) if right else None


async def login(client, answers, broker):
    """Answers what leads to a login; True when it is done."""
    kind, conversation = None, None
    while True:
        request = await frame(client)
        api, version, correlation, length = struct.unpack(">hhih", request[:10])
        body, head = request[10 + max(length, 0):], struct.pack(">i", correlation)
        if api == API_VERSIONS:
            await send(broker[1], request)
            await send(answers, await frame(broker[0]))
        elif api == HANDSHAKE:
            kind = {"PLAIN": plain, "SCRAM-SHA-256": scram}.get(body[2:].decode())
            known = struct.pack(">i", 1) + struct.pack(">h", 5) + b"PLAIN"
            await send(answers, head + struct.pack(">h", 0 if kind else 33) + known)
        elif api == AUTHENTICATE and kind and version < 2:
            answer = conversation.send(body[4:]) if conversation else None
            if not conversation:
                conversation = kind(body[4:])
                answer = next(conversation)
            lives = struct.pack(">q", 0) if version == 1 else b""
            if answer is None:
                told = b"the password is wrong"
                await send(answers, head + struct.pack(">hh", DENIED, len(told)) + told + struct.pack(">i", 0) + lives)
                return False
            await send(answers, head + struct.pack(">hhi", 0, -1, len(answer)) + answer + lives)
            if kind is plain or answer.startswith(b"v="):
                return True
        else:
            return False


async def pass_on(reader, writer, old=b"", new=b""):
    while True:
        body = await frame(reader)
        await send(writer, body.replace(old, new) if old else body)


async def serve(client, answers, port):
    broker = await asyncio.open_connection("127.0.0.1", BROKER)
    try:
        if await login(client, answers, broker):
            at = lambda number: b"127.0.0.1" + struct.pack(">i", number)
            there = pass_on(client, broker[1])
            await asyncio.gather(there, pass_on(broker[0], answers, at(BROKER), at(port)))
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        answers.close()
        broker[1].close()


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    port = 0
    server = await asyncio.start_server(lambda *ends: serve(*ends, port), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await server.serve_forever()


asyncio.run(main())
