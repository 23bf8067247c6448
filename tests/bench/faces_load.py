"""Produces the same batch over and over by one face of a broker: faces_load.py kafka|grpc ADDRESS TOPIC PARTITIONS BATCHES WINDOW

The batch is encoded once, before anything is sent: 64 records of 1 KiB, not compressed. Each partition has a connection (or a
stream) with WINDOW batches unacknowledged. Run with the Python of .venv, which has grpcio.
"""
import pathlib
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import threading

RECORDS, VALUE = 64, b"x" * 1024


def varint(number):
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def crc32c(data):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def batch():
    records = b""
    for n in range(RECORDS):
        body = b"\0" + varint(0) + varint(n) + varint(-1) + varint(len(VALUE)) + VALUE + varint(0)
        records += varint(len(body)) + body
    checked = struct.pack(">hiqqqhii", 0, RECORDS - 1, 0, 0, -1, -1, -1, RECORDS) + records
    rest = struct.pack(">ibI", 0, 2, crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(rest)) + rest


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            sys.exit("the broker closed the connection")
        data += more
    return data


def by_kafka(address, topic, partition, count, window):
    """Version 7, and no client id."""
    host, port = address.rsplit(":", 1)
    data = batch()
    request = (struct.pack(">hhih", 0, 7, 1, -1) + struct.pack(">hhi", -1, -1, 30_000) + struct.pack(">i", 1) + text(topic)
               + struct.pack(">iii", 1, partition, len(data)) + data)
    frame = struct.pack(">i", len(request)) + request
    place = 4 + 4 + 2 + len(topic) + 4 + 4
    with socket.create_connection((host, int(port))) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        room = threading.Semaphore(window)

        def send():
            for _ in range(count):
                room.acquire()
                stream.sendall(frame)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        for _ in range(count):
            answer = exactly(stream, struct.unpack(">i", exactly(stream, 4))[0])
            code = struct.unpack_from(">h", answer, place)[0]
            if code:
                sys.exit(f"error {code}")
            room.release()


def stubs():
    root = pathlib.Path(__file__).resolve().parents[2]
    out = tempfile.mkdtemp()
    protos = [str(path) for path in (root / "proto/geminga/v1").glob("*.proto")]
    command = ["-m", "grpc_tools.protoc", "-I", str(root / "proto"), f"--python_out={out}", f"--grpc_python_out={out}", *protos]
    subprocess.run([sys.executable, *command], check=True)
    sys.path.insert(0, out)


def by_grpc(address, topic, partition, count, window):
    import grpc
    from geminga.v1 import stream_pb2, stream_pb2_grpc

    data, requests, room = batch(), queue.Queue(), threading.Semaphore(window)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        def asked():
            for n in range(count):
                room.acquire()
                element = stream_pb2.ProduceElement(id=n, topic=topic, partition=partition, batch=data)
                yield stream_pb2.ProduceRequest(elements=[element], direct=True)

        done = 0
        for answer in stream_pb2_grpc.StreamStub(channel).Produce(asked()):
            for result in answer.results:
                if result.HasField("error"):
                    sys.exit(result.error.message)
                done += 1
                room.release()
            if done == count:
                return
    sys.exit(f"{done} of {count} were answered")


if __name__ == "__main__":
    face, address, topic = sys.argv[1:4]
    partitions, count, window = map(int, sys.argv[4:])
    if face == "grpc":
        stubs()
    produce = {"kafka": by_kafka, "grpc": by_grpc}[face]
    failed = []

    def one(partition):
        try:
            produce(address, topic, partition, count // partitions, window)
        except SystemExit as error:
            failed.append(str(error))

    threads = [threading.Thread(target=one, args=(partition,)) for partition in range(partitions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(failed[0])
    print(count // partitions * partitions * len(batch()))
