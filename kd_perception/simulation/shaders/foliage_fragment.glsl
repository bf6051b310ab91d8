// Crowns and bushes with a ragged outline; what is cut away carries no label either.
void main() {
  vec3 n = normalize(world_normal);
  float q = fbm(local.xz * 5.0 + kind.w * 31.0) + 0.35 * noise(local.yx * 9.0);
  if (dot(n, normalize(eye - world)) < 0.55 * q - 0.05) discard;
  finish(color * (0.45 + 1.1 * q), n, 0.05, 0.0);
}
