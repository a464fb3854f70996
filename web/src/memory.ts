// What the page remembers of its reader. A page opened as a file may be refused any memory; then it forgets.

export function recall(key: string) {
  try {
    return localStorage.getItem(key)
  } catch {
    return null
  }
}

export function remember(key: string, value: string) {
  try {
    localStorage.setItem(key, value)
  } catch {
    // refused: the choice holds until the page is closed
  }
}
