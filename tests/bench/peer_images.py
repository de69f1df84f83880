#!/usr/bin/env python3
"""The same work as bench_images with Pillow on one core, CPU time: decode, random-resized-crop, flip, RandAugment (the operations of
tests/golden/augment_gen.py), evaluation.  Usage: peer_images.py [SIZE [SECONDS]] FILE...   (pip install pillow numpy)
"""
import io, os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'golden'))
import PIL
from PIL import Image, features
import augment_gen as peer

args = sys.argv[1:]
size = int(args.pop(0)) if args and args[0].isdigit() else 224
seconds = float(args.pop(0)) if args and args[0].replace('.', '').isdigit() else 3.
files = [open(f, 'rb').read() for f in args]


def decode(b): return Image.open(io.BytesIO(b)).convert('RGB')


def half(b):
    im = decode(b)
    return im.resize(((im.width + 1) // 2, (im.height + 1) // 2), Image.BICUBIC)


def good(b):
    try: decode(b)
    except Exception: return False
    return True


files = [b for b in files if good(b)]
print('Pillow %s, libjpeg-turbo %s' % (PIL.__version__, features.version_feature('libjpeg_turbo')))
for name, work in (('decode', lambda b, i: decode(b)), ('decode, resize to 1/2', lambda b, i: half(b)),
                   ('decode, random crop, flip', lambda b, i: peer.train_sample(decode(b), size, 1, i // 1000, i, augmented=False)),
                   ('training (all)', lambda b, i: peer.train_sample(decode(b), size, 1, i // 1000, i)),
                   ('evaluation (all)', lambda b, i: peer.evaluation_sample(decode(b), size))):
    done, start = 0, time.process_time()
    while True:
        for b in files:
            work(b, done)
            done += 1
        now = time.process_time()
        if now - start >= seconds: break
    print('%-28s %8.1f images/s' % (name, done / (now - start)))
