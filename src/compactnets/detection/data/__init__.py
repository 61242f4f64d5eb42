"""Images with boxes: Pascal VOC trees and COCO files, checked and converted."""
