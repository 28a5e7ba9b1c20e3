"""A schema registry of four routes, for tests: registry.py [FAILURES]; prints its port.

The first FAILURES requests are answered with 503. Where the environment has REGISTRY_PASSWORD, requests need it.
"""

import base64
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

failures = int(sys.argv[1]) if len(sys.argv) > 1 else 0
schemas, subjects = [], {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self):
        global failures
        if failures > 0:
            failures -= 1
            self.answer(503, {"error_code": 50003, "message": "not now"})
            return True
        password = os.environ.get("REGISTRY_PASSWORD")
        given = base64.b64encode(f"me:{password}".encode()).decode()
        if password and self.headers.get("Authorization") != f"Basic {given}":
            self.answer(401, {"error_code": 401, "message": "who are you?"})
            return True
        return False

    def version(self, subject, number):
        known = subjects.get(subject, [])
        number = len(known) if number == "latest" else int(number)
        if not 0 < number <= len(known):
            return self.answer(404, {"error_code": 40401, "message": "no such subject"})
        entry = schemas[known[number - 1] - 1]
        self.answer(200, {"subject": subject, "version": number, "id": known[number - 1], **entry})

    def do_GET(self):
        if self.refused():
            return
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[:2] == ["schemas", "ids"]:
            number = int(parts[2])
            if not 0 < number <= len(schemas):
                return self.answer(404, {"error_code": 40403, "message": "no such schema"})
            return self.answer(200, schemas[number - 1])
        if parts[0] != "subjects" or len(parts) != 4:
            return self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
        self.version(parts[1], parts[3])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        subject = unquote(urlparse(self.path).path.strip("/").split("/")[1])
        entry = {"schema": body["schema"], "schemaType": body.get("schemaType", "AVRO")}
        if body.get("references"):
            entry["references"] = body["references"]
        if entry not in schemas:
            schemas.append(entry)
        number = schemas.index(entry) + 1
        known = subjects.setdefault(subject, [])
        if number not in known:
            known.append(number)
        self.answer(200, {"id": number, "version": known.index(number) + 1, **entry})


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
