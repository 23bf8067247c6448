"""A name server that knows one name, for as long as it is entered."""
import socket
import struct
import threading


class NameServer:
    def __init__(self, address, name, answer):
        self.name, self.answer = name.encode(), socket.inet_aton(answer)
        self.asked = set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Wakes the thread, which knows no such question.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()

    def serve(self):
        while True:
            query, client = self.socket.recvfrom(512)
            if not query:
                return
            self.socket.sendto(self.reply(query), client)

    def reply(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]])
            at += 1 + query[at]
        (kind,) = struct.unpack("!H", query[at + 1:at + 3])
        question, name = query[12:at + 5], b".".join(labels)
        self.asked.add(name.decode())
        if name != self.name:
            return query[:2] + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0) + question
        answers = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + self.answer] if kind == 1 else []
        return query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0) + question + b"".join(answers)
