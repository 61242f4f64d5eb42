/** The camera: live frames until it is stopped. */

/** Start the camera; throws with one sentence where there is none or it is not allowed. */
export async function startCamera(video: HTMLVideoElement): Promise<MediaStream> {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The camera can be used on pages from https or from this device only.");
  }
  let stream: MediaStream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    const reasons: Record<string, string> = {
      NotAllowedError: "The camera was not allowed: allow it for this page, or choose an image.",
      NotFoundError: "No camera was found: choose an image instead.",
      NotReadableError: "The camera is in use by another program.",
    };
    throw new Error(reasons[name] ?? "The camera could not be started: choose an image instead.");
  }
  video.srcObject = stream;
  await video.play();
  return stream;
}

export function stopCamera(video: HTMLVideoElement, stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
  video.srcObject = null;
}
